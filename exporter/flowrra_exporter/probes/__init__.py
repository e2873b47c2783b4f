"""What the probes check, and when an outcome counts."""
