"""Manifests: ``python -m deploy.kubernetes`` copies rules and dashboards to where kubectl and Helm may read them."""
