"""Ways to send a worker request."""
