"""Evaluation jobs, in one process."""
