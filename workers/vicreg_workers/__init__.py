"""What runs on the Ray cluster: pretraining and evaluation."""
