"""Raises while it is imported."""

raise RuntimeError("broken\nmodule")
