"""The HTTP server, who may come in, and the page."""
