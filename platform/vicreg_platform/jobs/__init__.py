"""Jobs: their states, their rows, and what can be done with them."""
