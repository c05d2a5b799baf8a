"""Jobs that are made again and again, by the clock."""
