"""What is shipped to be deployed, with the tools that read it."""
