"""What is deployed beside the exporter, with its sources."""
