"""Copies runs, progress and metrics from MLflow into the database."""

from __future__ import annotations

from typing import Any

from vicreg_platform.clock import Clock
from vicreg_platform.contract.progress import read_progress
from vicreg_platform.contract.timeline import Timeline
from vicreg_platform.dispatch.backoff import Backoff
from vicreg_platform.errors import NotFound, TrackingRefused
from vicreg_platform.jobs.repository import Jobs
from vicreg_platform.jobs.schemas import stored_timeline
from vicreg_platform.jobs.states import JobState
from vicreg_platform.jobs.tables import Job
from vicreg_platform.telemetry import FIRST_STEP
from vicreg_platform.tracking import Tracking


class Readings:
    """What MLflow knows of the jobs.

    Args:
        jobs: where it is copied to.
        tracking: where it comes from.
        now: the clock.
    """

    def __init__(self, jobs: Jobs, tracking: Tracking, now: Clock) -> None:
        self._jobs = jobs
        self._tracking = tracking
        self._now = now
        self._backoff = Backoff(now, tracking.ping)

    def follow(self) -> None:
        """Copy what MLflow knows of each job whose driver is up.

        Raises:
            Unavailable: the database or MLflow is unreachable.
        """
        with self._jobs.read() as jobs:
            live = jobs.live_attempts()
        self._backoff.keep({job.id for _, job in live})
        for attempt, job in live:
            if job.state == JobState.STARTING.value or self._backoff.skips(job.id):
                continue
            with self._backoff.attempt(job.id):
                self._find_run(job)
                self.copy(job, stored_timeline(attempt))

    def copy(self, job: Job, known: Timeline | None = None) -> None:
        """Copy the progress, the timeline and the metrics of a job, unless its run is gone.

        A finding that the stored progress does not have becomes an event.

        Args:
            job: the job.
            known: what is stored of its latest attempt's timeline.

        Raises:
            TrackingUnavailable: MLflow is unreachable.
        """
        if job.run_id is None:
            return
        try:
            reading = self._tracking.read(job.run_id)
        except (TrackingRefused, NotFound):
            return
        progress = None if reading.progress is None else reading.progress.model_dump(mode="json")
        news = reading.timeline if reading.timeline and reading.timeline.timeline != known else None
        if news is None and progress == job.progress and reading.metrics == job.summary:
            return
        seen = job.progress_at if progress == job.progress else self._now()
        before = read_progress(job.progress)
        known_findings = {finding.name for finding in before.findings} if before else set()
        with self._jobs.write() as jobs:
            jobs.set_reading(job.id, progress, reading.metrics, seen)
            for finding in reading.progress.findings if reading.progress else ():
                if finding.name not in known_findings:
                    jobs.note(job.id, finding.text, finding.name)
            if news is not None:
                jobs.set_timeline(job.id, news.attempt, news.timeline)
        if job.kind == "pretrain" and not _steps(job.progress) and _steps(progress):
            FIRST_STEP.observe((self._now() - job.created_at).total_seconds())

    def _find_run(self, job: Job) -> None:
        """Store the run that the job's driver has created, once it is there."""
        if job.run_id is not None:
            return
        run = self._tracking.run_of_job(job.id, job.experiment)
        if run is not None:
            with self._jobs.write() as jobs:
                jobs.set_run(job.id, *run)
            job.run_id = run[0]


def _steps(progress: dict[str, Any] | None) -> int:
    return int(progress.get("step", 0)) if progress else 0
