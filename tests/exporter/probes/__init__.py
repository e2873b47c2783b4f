"""What the probes answer."""
