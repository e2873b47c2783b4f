"""The app that the exporter serves."""
