"""What the exporter serves, and how its process behaves."""
