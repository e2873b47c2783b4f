"""The `flowrra` command."""
