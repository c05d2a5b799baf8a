"""What a worker says to its MLflow run, off the training thread.

A slow or dead server neither stops nor slows training: everything said is queued, and a thread of
its own sends it in batches, trying on until the server has it. A point is sent once only: after
a restart, points that the server has already are dropped, and points that it had not yet when
the checkpoint was written come out of the checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

import requests
from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from vicreg_platform.tracking import PROGRESS_TAG
from vicreg_workers.context import Progress
from vicreg_workers.failures import InfrastructureFailure

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
RETRY_SECONDS = 2.0
BATCH = 1000
"""MLflow's limit on the metrics of one request."""


class Point(NamedTuple):
    """One point of a curve."""

    metric: str
    value: float
    timestamp: int
    step: int


class RunLog:
    """The run of this job.

    Args:
        tracking_uri: address of the MLflow server.
        run_id: the run.
        resumed: the run may hold points already; each curve then goes on after its last step.
    """

    def __init__(self, tracking_uri: str, run_id: str, *, resumed: bool = False) -> None:
        self._client = MlflowClient(tracking_uri=tracking_uri)
        self._run_id = run_id
        self._points: list[Point] = []
        self._tags: dict[str, str] = {}
        self._files: list[tuple[str, bytes]] = []
        self._last_steps: dict[str, int] | None = None if resumed else {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._send_all, name="run-log", daemon=True)
        self._thread.start()

    def metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Queue one point of each curve."""
        now = time.time_ns() // 1_000_000
        with self._lock:
            self._points += [Point(name, value, now, step) for name, value in metrics.items()]

    def progress(self, progress: Progress) -> None:
        """Queue how far the run is; only the latest is sent."""
        self.tags({PROGRESS_TAG: json.dumps(asdict(progress))})

    def tags(self, tags: Mapping[str, str]) -> None:
        """Queue tags; only the latest value of each is sent."""
        with self._lock:
            self._tags |= tags

    def file(self, path: str, content: bytes) -> None:
        """Queue an artifact."""
        with self._lock:
            self._files.append((path, content))

    def unsent(self) -> list[Point]:
        """The points that the server does not have yet, for a checkpoint."""
        with self._lock:
            return list(self._points)

    def restore_unsent(self, points: list[Any]) -> None:
        """Queue the points of a checkpoint again, in front of all others."""
        with self._lock:
            self._points = [Point(*point) for point in points] + self._points

    def close(self, timeout: float) -> None:
        """Send what is left.

        Args:
            timeout: how long to try, in seconds.

        Raises:
            InfrastructureFailure: the server did not take it in that time.
        """
        self._closing = True
        self._wake.set()
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise InfrastructureFailure(
                f"MLflow did not answer for {timeout:g} s after the work was done"
            )

    def _send_all(self) -> None:
        failing = False
        while True:
            closing = self._closing
            try:
                self._send()
                if failing:
                    logger.info("MLflow is back: nothing was lost")
                failing = False
            except (MlflowException, requests.RequestException, OSError) as error:
                if not failing:
                    reason = str(error).splitlines()[0][:200]
                    logger.warning("MLflow does not answer; training goes on: %s", reason)
                failing = True
            if closing and not failing:
                return
            self._wake.wait(RETRY_SECONDS if failing else FLUSH_SECONDS)
            if self._closing and failing:
                time.sleep(RETRY_SECONDS)

    def _send(self) -> None:
        if self._last_steps is None:
            self._last_steps = self._steps_on_server()
        while True:
            with self._lock:
                points = self._points[:BATCH]
                tags = dict(self._tags)
            if points or tags:
                fresh = [p for p in points if p.step > self._last_steps.get(p.metric, -1)]
                self._client.log_batch(
                    self._run_id,
                    metrics=[Metric(p.metric, p.value, p.timestamp, p.step) for p in fresh],
                    tags=[RunTag(key, value) for key, value in tags.items()],
                )
                with self._lock:
                    del self._points[: len(points)]
                    for key, value in tags.items():
                        if self._tags.get(key) == value:
                            del self._tags[key]
            if len(points) < BATCH:
                break
        while self._files:
            path, content = self._files[0]
            self._upload(path, content)
            with self._lock:
                del self._files[0]

    def _upload(self, path: str, content: bytes) -> None:
        folder, _, name = path.rpartition("/")
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / name
            file.write_bytes(content)
            self._client.log_artifact(self._run_id, str(file), folder or None)

    def _steps_on_server(self) -> dict[str, int]:
        """The last step of each curve that the run has."""
        return {
            metric: max(point.step for point in self._client.get_metric_history(self._run_id, metric))
            for metric in self._client.get_run(self._run_id).data.metrics
        }
