"""What runs on the Ray cluster: pretraining, evaluation and sweeps."""
