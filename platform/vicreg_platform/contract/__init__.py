"""What dispatcher and workers say to each other."""
