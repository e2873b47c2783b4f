"""Benchmarks: how fast and how small the project is, beside others and beside bare limits measured in the same run."""
