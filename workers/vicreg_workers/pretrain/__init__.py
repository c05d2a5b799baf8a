"""Pretraining jobs on Ray Train."""
