"""Brings the labels of jobs, when their owners have changed them, to the tags of their runs."""

from __future__ import annotations

import logging

from vicreg_platform.clock import Clock
from vicreg_platform.dispatch.backoff import Backoff
from vicreg_platform.errors import NotFound
from vicreg_platform.jobs.repository import Jobs
from vicreg_platform.jobs.tables import Job
from vicreg_platform.tracking import Tracking

logger = logging.getLogger(__name__)

BATCH = 100
"""Jobs looked at in one round, besides those that are skipped for now."""


class RunLabels:
    """Changed labels that the runs do not have yet.

    Args:
        jobs: where labels are changed.
        tracking: where the runs are.
        now: the clock.
    """

    def __init__(self, jobs: Jobs, tracking: Tracking, now: Clock) -> None:
        self._jobs = jobs
        self._tracking = tracking
        self._backoff = Backoff(now, tracking.ping)

    def follow(self) -> None:
        """Give each run the labels that its job has now.

        Raises:
            Unavailable: the database or MLflow is unreachable.
        """
        with self._jobs.read() as jobs:
            changed = jobs.relabelled(BATCH + len(self._backoff))
        self._backoff.keep({job.id for job in changed})
        for job in changed:
            if not self._backoff.skips(job.id):
                with self._backoff.attempt(job.id):
                    self._write(job)

    def _write(self, job: Job) -> None:
        assert job.run_id is not None
        assert job.relabelled_at is not None
        try:
            labels = {label.key: label.value for label in job.labels}
            self._tracking.set_labels(job.run_id, labels)
        except NotFound as error:
            logger.warning("the run of job %s cannot be given its labels: %s", job.id, error)
        with self._jobs.write() as jobs:
            # Unless they have been changed once more meanwhile.
            jobs.mark_labelled(job.id, job.relabelled_at)
