"""Metrics, files and tags on their way to MLflow."""
