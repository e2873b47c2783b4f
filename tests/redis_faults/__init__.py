"""What goes wrong with workers and servers, for real: killed, restarted, cut off."""
