"""The rules for Prometheus, run by promtool."""
