"""Features, kNN, linear probe and fine-tuning of an encoder."""
