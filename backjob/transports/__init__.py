"""Ways to send a worker request; each module stands alone."""
