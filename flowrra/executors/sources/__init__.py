"""Where an executor's tasks come from and go back to."""
