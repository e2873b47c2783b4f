"""The whole as its users run it: the exporter's process, a real Prometheus, the dashboards, the examples."""
