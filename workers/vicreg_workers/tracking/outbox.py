"""Sends what a worker records to its MLflow run, from a thread of its own.

A slow or unreachable server neither stops nor slows the training: everything is queued, and sent
in batches until the server has it. No point is lost or sent twice. A server that refuses for good,
for example because the run was deleted, fails the job. After a restart, points that
the server has already are dropped, and points that it had not when the checkpoint was saved come
from the checkpoint.
"""

from __future__ import annotations

import logging
import math
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vicreg_platform.contract.progress import Progress
from vicreg_platform.contract.tags import PROGRESS_TAG, TIMELINE_TAG
from vicreg_platform.contract.timeline import AttemptTimeline
from vicreg_platform.tracking import is_refusal, mlflow_client, patient_uploads
from vicreg_workers.failures import InfrastructureFailure, UserFailure

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
"""Time between two sendings."""
RETRY_SECONDS = 2.0
CLOSE_SECONDS = 600.0
"""How long finished work waits for MLflow without anything being sent."""
FAILED_CLOSE_SECONDS = 20.0
"""How long failed work waits: its failure must not be delayed, let alone hidden."""
DRAIN_LOOK_SECONDS = 0.05
BATCH = 1000
"""MLflow's limit on the metrics of one request."""


class Point(NamedTuple):
    """One point of a curve."""

    metric: str
    value: float
    timestamp: int
    """Milliseconds since 1970."""
    step: int


class Outbox:
    """Queues metrics, tags and files for an MLflow run and sends them.

    As a context manager it sends what is left when the work is done.

    Args:
        tracking_uri: address of the MLflow server.
        run: the id of the run, or what finds or creates the run.
        resumed: whether the run may hold points already. Each curve then continues after its last
            step.
        timeline: what the attempt has reached so far; without it, what it reaches is not sent.
    """

    def __init__(
        self,
        tracking_uri: str,
        run: str | Callable[[], str],
        *,
        resumed: bool = False,
        timeline: AttemptTimeline | None = None,
    ) -> None:
        self._tracking_uri = tracking_uri
        self._run = run
        self._refused: UserFailure | None = None
        self._points: list[Point] = []
        self._tags: dict[str, str] = {}
        self._timeline = timeline
        self._files: list[tuple[str, bytes | Path]] = []
        self._last_steps: dict[str, int] | None = None if resumed else {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._send_all, name="outbox", daemon=True)
        self._thread.start()

    def metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Queue one point of each curve; what is not finite has none.

        MLflow would store an infinity, such as a gradient's norm in a step that fp16 skips, as the
        largest number, beside which no other is seen.

        Raises:
            UserFailure: MLflow refuses what is sent, and would do so again.
        """
        self._check()
        now = time.time_ns() // 1_000_000
        with self._lock:
            self._points += [
                Point(name, value, now, step)
                for name, value in metrics.items()
                if math.isfinite(value)
            ]

    def progress(self, progress: Progress) -> None:
        """Queue how far the run is. Only the latest is sent."""
        self.tags({PROGRESS_TAG: progress.model_dump_json()})

    def reached(self, moment: str) -> None:
        """Queue that the attempt has reached a moment of its ``Timeline`` now."""
        if self._timeline is None:
            return
        at = {moment: datetime.now(UTC)}
        timeline = self._timeline.timeline.model_copy(update=at)
        self._timeline = self._timeline.model_copy(update={"timeline": timeline})
        self.tags({TIMELINE_TAG: self._timeline.model_dump_json(exclude_none=True)})

    def tags(self, tags: Mapping[str, str]) -> None:
        """Queue tags. Only the latest value of each is sent."""
        with self._lock:
            self._tags |= tags

    def file(self, path: str, content: bytes | Path) -> None:
        """Queue an artifact: its content, or a file of it, which is deleted in the end."""
        with self._lock:
            self._files.append((path, content))

    def unsent(self) -> list[Point]:
        """The points that the server does not have yet. They go into the checkpoint."""
        with self._lock:
            return list(self._points)

    def restore_unsent(self, points: list[Any]) -> None:
        """Queue the points of a checkpoint, before all others."""
        with self._lock:
            self._points = [Point(*point) for point in points] + self._points

    def drain(self, timeout: float) -> None:
        """Wait until the server has everything, for at most ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while self._left() and time.monotonic() < deadline:
            time.sleep(DRAIN_LOOK_SECONDS)

    def __enter__(self) -> Outbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, *others: object) -> None:
        try:
            if kind is None:
                self.close()
            else:
                self._closing.set()
                self._thread.join(FAILED_CLOSE_SECONDS)
        finally:
            for _, content in self._files:
                if isinstance(content, Path):
                    content.unlink(missing_ok=True)

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Send what is left.

        Args:
            timeout: how long to wait without anything being sent, in seconds.

        Raises:
            InfrastructureFailure: the server accepted nothing for that time.
            UserFailure: MLflow refuses what is sent, and would do so again.
        """
        self._closing.set()
        left = self._left()
        while left:
            self._thread.join(timeout)
            self._check()
            before, left = left, self._left()
            if left == before:
                raise InfrastructureFailure(
                    f"MLflow accepted nothing for {timeout:g} s after the work was done"
                )
        self._thread.join(timeout)
        self._check()

    def _check(self) -> None:
        if self._refused is not None:
            raise self._refused

    def _left(self) -> int:
        """The number of points, tags and files not sent yet."""
        with self._lock:
            return len(self._points) + len(self._tags) + len(self._files)

    def _send_all(self) -> None:
        client = None
        failing = published = False
        while True:
            closing = self._closing.is_set()
            try:
                if client is None:
                    # Imports MLflow, which takes seconds: here they do not delay the training.
                    client = mlflow_client(self._tracking_uri)
                self._send(client)
            except Exception as error:  # whatever it is, what is queued must not be lost
                if is_refusal(error):
                    reason = str(error).removeprefix("RESOURCE_DOES_NOT_EXIST: ")
                    self._refused = UserFailure(f"MLflow refuses what this job records: {reason}")
                    return
                if not failing:
                    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
                    logger.warning("MLflow is unreachable; the work continues: %s", reason)
                failing = True
                time.sleep(RETRY_SECONDS)
                continue
            if failing:
                logger.info("MLflow is reachable again; nothing was lost")
                failing = False
            if closing and published:
                return
            if closing:
                published = True
                self.reached("published")
                continue
            self._closing.wait(FLUSH_SECONDS)

    def _send(self, client: MlflowClient) -> None:
        from mlflow.entities import Metric, RunTag

        if not isinstance(self._run, str):
            self._run = self._run()
        run_id = self._run
        if self._last_steps is None:
            self._last_steps = _steps_on_server(client, run_id)
        more = True
        while more:
            with self._lock:
                points = self._points[:BATCH]
                more = len(self._points) > BATCH
                tags = dict(self._tags)
            fresh = [p for p in points if p.step > self._last_steps.get(p.metric, -1)]
            if fresh or tags:
                client.log_batch(
                    run_id,
                    metrics=[Metric(p.metric, p.value, p.timestamp, p.step) for p in fresh],
                    tags=[RunTag(key, value) for key, value in tags.items()],
                )
            with self._lock:
                del self._points[: len(points)]
                self._tags = {k: v for k, v in self._tags.items() if tags.get(k) != v}
        while self._files:
            _upload(client, run_id, *self._files[0])
            with self._lock:
                del self._files[0]


def _upload(client: MlflowClient, run_id: str, path: str, content: bytes | Path) -> None:
    folder, _, name = path.rpartition("/")
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / name
        if isinstance(content, Path):
            file.symlink_to(content)
        else:
            file.write_bytes(content)
        with patient_uploads():
            client.log_artifact(run_id, str(file), folder or None)
    if isinstance(content, Path):
        content.unlink(missing_ok=True)


def _steps_on_server(client: MlflowClient, run_id: str) -> dict[str, int]:
    """The last step of each curve that the run holds."""
    return {
        metric: max(point.step for point in client.get_metric_history(run_id, metric))
        for metric in client.get_run(run_id).data.metrics
    }
