"""Measures a network in training, and detects when it diverges."""
