"""The app that the exporter serves: its event loop, its Management API, its start and stop."""
