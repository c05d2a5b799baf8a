"""What a worker says to its MLflow run, off the training thread.

A slow or dead server neither stops nor slows training: everything said is queued, and a thread of
its own sends it in batches, trying on until the server has it. A point is sent once only: after
a restart, points that the server has already are dropped, and points that it had not yet when
the checkpoint was written come out of the checkpoint.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vicreg_platform.contract.progress import Progress
from vicreg_platform.contract.tags import PROGRESS_TAG
from vicreg_workers.failures import InfrastructureFailure

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
RETRY_SECONDS = 2.0
CLOSE_SECONDS = 600.0
"""How long finished work waits for MLflow to take what is left."""
FAILED_CLOSE_SECONDS = 20.0
"""How long failed work does: its failure is not to be held up, let alone hidden."""
DRAIN_LOOK_SECONDS = 0.05
BATCH = 1000
"""MLflow's limit on the metrics of one request."""


class Point(NamedTuple):
    """One point of a curve."""

    metric: str
    value: float
    timestamp: int
    step: int


class RunLog:
    """The run of this job. As a context manager it sends what is left when the work is done.

    Args:
        tracking_uri: address of the MLflow server.
        run_id: the run.
        resumed: the run may hold points already; each curve then goes on after its last step.
    """

    def __init__(self, tracking_uri: str, run_id: str, *, resumed: bool = False) -> None:
        self._tracking_uri = tracking_uri
        self._run_id = run_id
        self._points: list[Point] = []
        self._tags: dict[str, str] = {}
        self._files: list[tuple[str, bytes]] = []
        self._last_steps: dict[str, int] | None = None if resumed else {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._send_all, name="run-log", daemon=True)
        self._thread.start()

    def metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Queue one point of each curve."""
        now = time.time_ns() // 1_000_000
        with self._lock:
            self._points += [Point(name, value, now, step) for name, value in metrics.items()]

    def progress(self, progress: Progress) -> None:
        """Queue how far the run is; only the latest is sent."""
        self.tags({PROGRESS_TAG: progress.model_dump_json()})

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

    def drain(self, timeout: float) -> None:
        """Wait until the server has everything, or for ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while self._left() and time.monotonic() < deadline:
            time.sleep(DRAIN_LOOK_SECONDS)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._closing.set()
            self._thread.join(FAILED_CLOSE_SECONDS)

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Send what is left.

        Args:
            timeout: how long to go on without anything being sent, in seconds.

        Raises:
            InfrastructureFailure: the server took nothing for that time.
        """
        self._closing.set()
        left = self._left()
        while left:
            self._thread.join(timeout)
            before, left = left, self._left()
            if left == before:
                raise InfrastructureFailure(
                    f"MLflow took nothing for {timeout:g} s after the work was done"
                )
        self._thread.join(timeout)

    def _left(self) -> int:
        """How many points, tags and files are not sent yet."""
        with self._lock:
            return len(self._points) + len(self._tags) + len(self._files)

    def _send_all(self) -> None:
        client = None
        failing = False
        while True:
            closing = self._closing.is_set()
            try:
                if client is None:
                    # MLflow takes seconds to import: here they cost the training nothing.
                    from vicreg_platform.tracking import mlflow_client

                    client = mlflow_client(self._tracking_uri)
                self._send(client)
            except Exception as error:  # whatever it is, what is queued must not be lost
                if not failing:
                    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
                    logger.warning("MLflow does not answer; the work goes on: %s", reason)
                failing = True
                time.sleep(RETRY_SECONDS)
                continue
            if failing:
                logger.info("MLflow is back: nothing was lost")
                failing = False
            if closing:
                return
            self._closing.wait(FLUSH_SECONDS)

    def _send(self, client: MlflowClient) -> None:
        from mlflow.entities import Metric, RunTag

        if self._last_steps is None:
            self._last_steps = self._steps_on_server(client)
        more = True
        while more:
            with self._lock:
                points = self._points[:BATCH]
                more = len(self._points) > BATCH
                tags = dict(self._tags)
            fresh = [p for p in points if p.step > self._last_steps.get(p.metric, -1)]
            if fresh or tags:
                client.log_batch(
                    self._run_id,
                    metrics=[Metric(p.metric, p.value, p.timestamp, p.step) for p in fresh],
                    tags=[RunTag(key, value) for key, value in tags.items()],
                )
            with self._lock:
                del self._points[: len(points)]
                self._tags = {k: v for k, v in self._tags.items() if tags.get(k) != v}
        while self._files:
            self._upload(client, *self._files[0])
            with self._lock:
                del self._files[0]

    def _upload(self, client: MlflowClient, path: str, content: bytes) -> None:
        from vicreg_platform.tracking import patient_uploads

        folder, _, name = path.rpartition("/")
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / name
            file.write_bytes(content)
            with patient_uploads():
                client.log_artifact(self._run_id, str(file), folder or None)

    def _steps_on_server(self, client: MlflowClient) -> dict[str, int]:
        """The last step of each curve that the run has."""
        return {
            metric: max(point.step for point in client.get_metric_history(self._run_id, metric))
            for metric in client.get_run(self._run_id).data.metrics
        }
