"""Copies progress and metrics from a job's MLflow run into the database."""

from __future__ import annotations

from typing import Any

from vicreg_platform.clock import Clock
from vicreg_platform.errors import NotFound, TrackingRefused, TrackingUnavailable
from vicreg_platform.jobs.repository import Jobs
from vicreg_platform.jobs.tables import Job
from vicreg_platform.telemetry import FIRST_STEP
from vicreg_platform.tracking import Tracking


class Readings:
    """What MLflow knows of the jobs.

    Args:
        jobs: where progress and metrics are copied to.
        tracking: where they come from.
        now: the clock.
    """

    def __init__(self, jobs: Jobs, tracking: Tracking, now: Clock) -> None:
        self._jobs = jobs
        self._tracking = tracking
        self._now = now

    def copy(self, job: Job) -> None:
        """Copy the progress and the metrics of a job, unless MLflow cannot give them now."""
        if job.run_id is None:
            return
        try:
            reading = self._tracking.read(job.run_id)
        except (TrackingUnavailable, TrackingRefused, NotFound):
            return
        progress = None if reading.progress is None else reading.progress.model_dump()
        if progress == job.progress and reading.metrics == job.summary:
            return
        with self._jobs.write() as jobs:
            jobs.set_reading(job.id, progress, reading.metrics)
        if job.kind == "pretrain" and not _steps(job.progress) and _steps(progress):
            FIRST_STEP.observe((self._now() - job.created_at).total_seconds())


def _steps(progress: dict[str, Any] | None) -> int:
    return int(progress.get("step", 0)) if progress else 0
