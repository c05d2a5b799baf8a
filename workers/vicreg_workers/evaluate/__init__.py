"""Evaluation jobs: one process, or several on Ray Train."""
