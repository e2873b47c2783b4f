"""Prometheus rules as code: ``python -m deploy.prometheus`` writes the files in this folder."""
