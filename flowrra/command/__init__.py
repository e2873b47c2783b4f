"""The ``flowrra`` command: what the Management API answers, and what it does, on the terminal."""
