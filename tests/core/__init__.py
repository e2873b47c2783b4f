"""What the task queue promises: one subject a file."""
