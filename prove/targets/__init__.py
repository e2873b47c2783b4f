"""Apps that the proofs serve."""
