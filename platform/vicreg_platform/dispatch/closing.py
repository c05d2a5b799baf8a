"""Closes ended jobs: stores their logs, closes their runs, promotes a sweep's best trial."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from vicreg_platform.clock import Clock
from vicreg_platform.cluster import Cluster
from vicreg_platform.dispatch.backoff import Backoff
from vicreg_platform.dispatch.readings import Readings
from vicreg_platform.errors import (
    Forbidden,
    IllegalTransition,
    InvalidSpec,
    LogUnavailable,
    NotFound,
    TrackingRefused,
)
from vicreg_platform.jobs.leaderboard import best_trial
from vicreg_platform.jobs.repository import Jobs
from vicreg_platform.jobs.service import JobService
from vicreg_platform.jobs.states import JobState
from vicreg_platform.jobs.tables import Attempt, Job
from vicreg_platform.specs.stored import Unreadable, read_spec
from vicreg_platform.tracking import Tracking

logger = logging.getLogger(__name__)

BATCH = 100
"""Logs and runs looked at in one round, besides those that are skipped for now."""
LOG_SECONDS = 600.0
"""How long after an attempt's end Ray is asked for a log that it cannot give."""
_RUN_STATUS = {
    JobState.SUCCEEDED: "FINISHED",
    JobState.FAILED: "FAILED",
    JobState.CANCELLED: "KILLED",
}


class Closing:
    """Ended attempts whose log is not stored, and finished jobs whose run is open.

    Args:
        jobs: where they are stored.
        cluster: where the logs are.
        tracking: where the runs are.
        readings: copies the last metrics.
        service: promotes the best of a sweep.
        now: the clock.
    """

    def __init__(
        self,
        jobs: Jobs,
        cluster: Cluster,
        tracking: Tracking,
        readings: Readings,
        service: JobService,
        now: Clock,
    ) -> None:
        self._jobs = jobs
        self._cluster = cluster
        self._tracking = tracking
        self._readings = readings
        self._service = service
        self._now = now
        self._archiving = Backoff(now, tracking.ping)
        self._closing = Backoff(now, tracking.ping)

    def archive(self) -> None:
        """Store the logs of ended attempts, each with its job's run.

        Raises:
            Unavailable: the database, Ray or MLflow is unreachable.
        """
        with self._jobs.read() as jobs:
            ended = jobs.unarchived_attempts(BATCH + len(self._archiving))
        self._archiving.keep({attempt.submission_id for attempt, _ in ended})
        for attempt, job in ended:
            if self._archiving.skips(attempt.submission_id):
                continue
            with self._archiving.attempt(attempt.submission_id):
                self._archive(attempt, job)

    def close(self) -> None:
        """Give the runs of finished jobs their last status.

        Raises:
            Unavailable: the database or MLflow is unreachable.
        """
        with self._jobs.read() as jobs:
            finished = jobs.unclosed(BATCH + len(self._closing))
        self._closing.keep({job.id for job in finished})
        for job in finished:
            if self._closing.skips(job.id):
                continue
            with self._closing.attempt(job.id):
                self._close(job)

    def _archive(self, attempt: Attempt, job: Job) -> None:
        try:
            self._store_log(self._run_of(job), attempt)
        except LogUnavailable:
            raise
        except (NotFound, TrackingRefused) as error:
            logger.warning("the log of %s cannot be stored: %s", attempt.submission_id, error)
        with self._jobs.write() as jobs:
            jobs.mark_archived(attempt)

    def _run_of(self, job: Job) -> str:
        """The job's run; created here if its driver did not get as far."""
        if job.run_id is not None:
            return job.run_id
        spec = read_spec(job.spec, job.spec_version)
        with self._jobs.read() as jobs:
            parent = None if isinstance(spec, Unreadable) else jobs.run_of(spec.parent_job)
        run = self._tracking.ensure_run(job.id, job.name, job.experiment, job.spec, parent)
        with self._jobs.write() as jobs:
            jobs.set_run(job.id, *run)
        job.run_id = run[0]
        return run[0]

    def _store_log(self, run_id: str, attempt: Attempt) -> None:
        try:
            log = self._cluster.log(attempt.submission_id)
        except LogUnavailable as error:
            assert attempt.ended_at is not None
            if (self._now() - attempt.ended_at).total_seconds() < LOG_SECONDS:
                raise
            log = _line(f"the log was lost: {error}")
        if log is None:
            if self._tracking.has_log(run_id, attempt.number):
                return
            log = _line("the log was lost with the Ray head")
        self._tracking.store_log(run_id, attempt.number, log)

    def _close(self, job: Job) -> None:
        assert job.run_id is not None
        try:
            if job.kind == "sweep":
                self._close_sweep(job, job.run_id)
            self._readings.copy(job)
            status = _RUN_STATUS[JobState(job.state)]
            self._tracking.finish(job.run_id, status, job.finished_at)
            self._tracking.remove_duplicates(job.id, job.experiment, job.run_id)
        except (NotFound, TrackingRefused) as error:
            logger.warning("the run of job %s cannot be closed: %s", job.id, error)
        with self._jobs.write() as jobs:
            jobs.mark_closed(job.id)

    def _close_sweep(self, job: Job, run_id: str) -> None:
        """Close the runs of trials that ended with their sweep, and promote its best."""
        if job.state == JobState.SUCCEEDED.value and job.spec.get("promote"):
            sweep = self._service.get(job.id)
            try:
                promoted = self._service.promote(job.id, best_trial(self._tracking, sweep))
                logger.info("sweep %s: job %s trains its best", job.id, promoted.id)
            except (InvalidSpec, IllegalTransition, Forbidden) as error:
                logger.warning("the best of sweep %s cannot be trained: %s", job.id, error)
        self._tracking.cancel_trials(run_id)


def _line(text: str) -> Iterator[bytes]:
    return iter([f"{text}\n".encode()])
