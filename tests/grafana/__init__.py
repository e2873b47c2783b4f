"""The dashboards that are shipped, held to their rules."""
