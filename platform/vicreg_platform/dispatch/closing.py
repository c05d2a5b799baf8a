"""Closes ended jobs: stores their logs, closes their runs, promotes a sweep's best trial."""

from __future__ import annotations

import logging

from vicreg_platform.cluster import Cluster
from vicreg_platform.contract.trial import TrialState
from vicreg_platform.dispatch.containment import contained
from vicreg_platform.dispatch.readings import Readings
from vicreg_platform.errors import (
    IllegalTransition,
    InvalidSpec,
    NotFound,
    QuotaExceeded,
    TrackingRefused,
    TrackingUnavailable,
)
from vicreg_platform.jobs.leaderboard import best_trial
from vicreg_platform.jobs.repository import Jobs
from vicreg_platform.jobs.service import JobService
from vicreg_platform.jobs.states import JobState
from vicreg_platform.jobs.tables import Attempt, Job
from vicreg_platform.tracking import Tracking

logger = logging.getLogger(__name__)

BATCH = 100
"""Logs and runs looked at in one round."""
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
    """

    def __init__(
        self,
        jobs: Jobs,
        cluster: Cluster,
        tracking: Tracking,
        readings: Readings,
        service: JobService,
    ) -> None:
        self._jobs = jobs
        self._cluster = cluster
        self._tracking = tracking
        self._readings = readings
        self._service = service

    def close(self) -> None:
        """Store the logs and close the runs, or as many as MLflow accepts now.

        Raises:
            Unavailable: the database or Ray is unreachable.
        """
        with self._jobs.read() as jobs:
            ended = jobs.unarchived_attempts(BATCH)
            finished = jobs.unclosed(BATCH)
        try:
            for attempt, job in ended:
                with contained(job):
                    self._archive(attempt, job)
            for job in finished:
                with contained(job):
                    self._close(job)
        except TrackingUnavailable:
            return  # the next round continues

    def _archive(self, attempt: Attempt, job: Job) -> None:
        if job.run_id is not None:
            try:
                self._store_log(job.run_id, attempt)
            except (NotFound, TrackingRefused) as error:
                logger.warning("the log of %s cannot be stored: %s", attempt.submission_id, error)
        with self._jobs.write() as jobs:
            jobs.mark_archived(attempt)

    def _store_log(self, run_id: str, attempt: Attempt) -> None:
        log = self._cluster.log(attempt.submission_id)
        if log is None and self._tracking.has_log(run_id, attempt.number):
            return
        log = "the log was lost with the Ray head\n" if log is None else log
        self._tracking.store_log(run_id, attempt.number, log)

    def _close(self, job: Job) -> None:
        assert job.run_id is not None
        try:
            if job.kind == "sweep":
                self._close_sweep(job, job.run_id)
            self._readings.copy(job)
            status = _RUN_STATUS[JobState(job.state)]
            self._tracking.finish(job.run_id, status, job.finished_at)
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
            except (InvalidSpec, IllegalTransition, QuotaExceeded) as error:
                logger.warning("the best of sweep %s cannot be trained: %s", job.id, error)
        for trial, trial_run, _ in self._tracking.trials(run_id):
            if trial.state is TrialState.RUNNING:
                self._tracking.store_trial(
                    trial_run, trial.model_copy(update={"state": TrialState.CANCELLED})
                )
