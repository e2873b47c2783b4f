"""Metrics and probes inside a program of the user's."""
