"""Who may connect, come in, and how often: sockets, limits, TLS, passwords, and the web configuration file."""
