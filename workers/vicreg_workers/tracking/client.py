"""MLflow's client, told not to wait minutes for a dead server.

It reads its variables at every call; whoever calls it tries again by itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.tracking import MlflowClient

TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
SECONDS = "10"
UPLOAD_SECONDS = "1800"
"""A server answers an upload when it has stored all of it: gigabytes, for a wide expander."""

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault(TIMEOUT, SECONDS)


def mlflow_client(tracking_uri: str) -> MlflowClient:
    """A client of the server at ``tracking_uri``."""
    return MlflowClient(tracking_uri=tracking_uri)


@contextmanager
def patient_uploads() -> Iterator[None]:
    """Give uploads the time they need; for use where one thread alone speaks to MLflow."""
    before = os.environ[TIMEOUT]
    os.environ[TIMEOUT] = UPLOAD_SECONDS
    try:
        yield
    finally:
        os.environ[TIMEOUT] = before
