"""MLflow's client, told not to wait minutes for a dead server.

It reads these variables at every call; whoever calls it tries again by itself.
"""

from __future__ import annotations

import os

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

from mlflow.tracking import MlflowClient


def mlflow_client(tracking_uri: str) -> MlflowClient:
    """A client of the server at ``tracking_uri``."""
    return MlflowClient(tracking_uri=tracking_uri)
