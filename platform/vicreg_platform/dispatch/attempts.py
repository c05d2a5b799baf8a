"""Attempts on the cluster: submits them, follows them, and settles how they ended."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from vicreg_platform.clock import Clock
from vicreg_platform.cluster import Cluster, SubmissionState, SubmissionStatus
from vicreg_platform.cluster.submission import (
    MAX_COMMAND_BYTES,
    command_bytes,
    submission_of,
)
from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.contract.failure_class import FAILURE_LINE, FailureClass
from vicreg_platform.database import Database
from vicreg_platform.dispatch.containment import contained
from vicreg_platform.dispatch.usage import add_usage, amount_of
from vicreg_platform.errors import LogUnavailable, SubmissionRefused
from vicreg_platform.jobs.repository import JobRepository, Jobs
from vicreg_platform.jobs.schemas import stored_timeline
from vicreg_platform.jobs.states import ON_CLUSTER, UNCOUNTED, JobState, StopCause
from vicreg_platform.jobs.tables import Attempt, Job
from vicreg_platform.settings import Settings
from vicreg_platform.specs.stored import Unreadable, read_spec
from vicreg_platform.telemetry import ATTEMPTS
from vicreg_platform.text import printable

logger = logging.getLogger(__name__)

MAX_BACKOFF_SECONDS = 300.0
MOST_RETRIED = 100
"""How far back a retry of a retry looks for a checkpoint."""
PUBLISHED_SECONDS = 5.0
"""How long a success waits for the last metrics: a job that has succeeded has its summary."""
REASON_LINES = 100
"""How many of a driver's last lines are searched for why it failed."""


@dataclass(frozen=True)
class Ending:
    """What becomes of a job whose attempt has ended."""

    state: JobState
    """The job's next state."""
    outcome: str
    """The attempt's: ``succeeded``, a ``StopCause``, or the class of the failure."""
    reason: str | None = None
    failure: str | None = None
    """The class of the failure, if the job has failed."""
    wait: float | None = None
    """Seconds until the next attempt, if there is one."""


def ending(
    cause: StopCause | None,
    stop_reason: str | None,
    failure: FailureClass | None,
    reason: str | None,
    failed: int,
    max_attempts: int,
    backoff_seconds: float,
) -> Ending:
    """What becomes of a job whose attempt has ended.

    Args:
        cause: what the job was stopped for; None if it was left alone.
        stop_reason: the same, in words.
        failure: how the attempt failed; None if it succeeded.
        reason: why it failed.
        failed: attempts of the job that were not stopped, this one included.
        max_attempts: of the job.
        backoff_seconds: wait before the second attempt; each later one waits twice as long, up to
            ``MAX_BACKOFF_SECONDS``.
    """
    if cause is StopCause.TIMEOUT:
        return Ending(JobState.FAILED, cause.value, stop_reason, failure=cause.value)
    if cause is StopCause.CANCELLED:
        return Ending(JobState.CANCELLED, cause.value, stop_reason)
    if failure is None:
        return Ending(JobState.SUCCEEDED, "succeeded")
    if failure is not FailureClass.INFRASTRUCTURE:
        return Ending(JobState.FAILED, failure.value, reason, failure=failure.value)
    if cause is not None:
        return Ending(cause.next_state, cause.value, stop_reason)
    if failed < max_attempts:
        wait = min(MAX_BACKOFF_SECONDS, backoff_seconds * 2.0 ** (failed - 1))
        return Ending(JobState.QUEUED, failure.value, reason, wait=wait)
    return Ending(JobState.FAILED, failure.value, reason, failure=failure.value)


class Attempts:
    """The attempts that have not ended.

    Args:
        database: where they are stored.
        cluster: where they run.
        settings: what drivers are told.
        now: the clock.
        wants_reading: called when an attempt has succeeded and its last metrics are not there yet.
    """

    def __init__(
        self,
        database: Database,
        cluster: Cluster,
        settings: Settings,
        now: Clock,
        wants_reading: Callable[[], object] = lambda: None,
    ) -> None:
        self._database = database
        self._jobs = Jobs(database, now)
        self._cluster = cluster
        self._settings = settings
        self._now = now
        self._wants_reading = wants_reading
        self._succeeded_since: dict[str, datetime] = {}

    def follow(self) -> None:
        """Bring every live attempt up to date with the cluster.

        Raises:
            Unavailable: the database or Ray is unreachable.
        """
        with self._jobs.read() as jobs:
            live = jobs.live_attempts()
        submissions = self._cluster.submissions()
        for attempt, job in live:
            with contained(job.id):
                self._follow(attempt, job, submissions.get(attempt.submission_id))
        known = {attempt.submission_id for attempt, _ in live}
        for ended in self._succeeded_since.keys() - known:
            del self._succeeded_since[ended]
        self._stop_late({name for name, status in submissions.items() if status.live} - known)

    def submit(self, attempt: Attempt, job: Job) -> None:
        """Submit an attempt that is stored already; a repeated submission runs once."""
        spec = read_spec(job.spec, job.spec_version)
        if isinstance(spec, Unreadable):
            self.explain(job, f"its spec is unreadable: {spec.reason}")
            return
        needs = spec.needs()
        if needs.groups > 1:
            needs = self._cluster.capacity().limited(needs)
        with self._jobs.read() as jobs:
            encoder_run_id = jobs.run_of(spec.encoder_job)
            extended_run_id = jobs.run_of(spec.extended_job)
        assignment = Assignment(
            job_id=job.id,
            attempt=attempt.number,
            spec=spec,
            workers=attempt.workers,
            concurrency=needs.groups,
            run_id=job.run_id,
            encoder_run_id=encoder_run_id,
            extended_run_id=extended_run_id,
            resume_from=self._retried(job),
            warm_start=self._settings.warm_start,
            tracking_uri=self._settings.mlflow_url,
            storage=self._settings.storage,
            data_root=str(self._settings.data_root),
        )
        submission = submission_of(assignment, attempt.submission_id)
        size = max(map(command_bytes, submission.arguments))
        if size > MAX_COMMAND_BYTES:
            reason = f"its spec makes a command line of {size} bytes; {MAX_COMMAND_BYTES} can start"
            self._end(attempt, job, FailureClass.USER, reason)
            return
        try:
            self._cluster.submit(submission)
        except SubmissionRefused as error:
            self._end(attempt, job, FailureClass.INFRASTRUCTURE, str(error))
            return
        with self._jobs.write() as jobs:
            jobs.mark_submitted(attempt)
        logger.info("attempt %s submitted", attempt.submission_id)

    def time_out(self, job: Job, reason: str, attempt: int | None = None) -> None:
        """Fail a job that is out of time; one on the cluster is stopped first."""
        on_cluster = JobState.read(job.state) in ON_CLUSTER
        with self._jobs.write() as jobs:
            jobs.transition(
                job.id,
                JobState.STOPPING if on_cluster else JobState.FAILED,
                message=reason,
                only_from=[JobState.read(job.state)],
                attempt=attempt,
                failure=FailureClass.TIMEOUT.value,
                stop_cause=StopCause.TIMEOUT if on_cluster else None,
            )

    def explain(self, job: Job, reason: str) -> None:
        """Store why a queued or starting job does not run yet, unless that is stored already."""
        reason = printable(reason)
        if job.reason != reason:
            with self._jobs.write() as jobs:
                jobs.set_reason(job.id, reason)

    def _retried(self, job: Job) -> tuple[str, ...]:
        """The job that a job retries or extends, the one that that one did, and so on."""
        retried: list[str] = []
        with self._jobs.read() as jobs:
            source = job.retry_of or job.extends
            while source is not None and len(retried) < MOST_RETRIED:
                retried.append(source)
                before = jobs.get(source)
                source = before.retry_of or before.extends
        return tuple(retried)

    def _stop_late(self, submissions: set[str]) -> None:
        """Stop submissions whose attempt has ended.

        Ray may accept a submission after this platform has given up waiting for its answer, and
        its job was cancelled meanwhile.
        """
        if not submissions:
            return
        with self._jobs.read() as jobs:
            late = jobs.ended_submissions(submissions)
        for submission_id in late:
            logger.warning("%s has ended, and runs on Ray: stopping it", submission_id)
            self._cluster.stop(submission_id)

    def _follow(self, attempt: Attempt, job: Job, status: SubmissionStatus | None) -> None:
        if status is None:
            self._follow_unknown(attempt, job)
            return
        if attempt.submitted_at is None:
            with self._jobs.write() as jobs:
                jobs.mark_submitted(attempt)
        if not status.live:
            self._settle(attempt, job, status)
        elif job.state == JobState.STOPPING.value:
            self._cluster.stop(attempt.submission_id)
        elif self._has_run_too_long(attempt, job):
            reason = f"attempt {attempt.number} took longer than {job.max_runtime:g} s"
            self.time_out(job, reason, attempt.number)
        elif status.state is SubmissionState.RUNNING:
            if job.state == JobState.STARTING.value:
                self._mark_running(attempt, job)
        elif self._settings.ray_nodes is not None:
            self.explain(job, "waits for a node of the cluster to come up")

    def _follow_unknown(self, attempt: Attempt, job: Job) -> None:
        if attempt.submitted_at is not None:
            reason = "Ray no longer knows the attempt: its head was lost or restarted"
            self._end(attempt, job, FailureClass.INFRASTRUCTURE, reason)
        elif job.state == JobState.STOPPING.value:
            self._end(attempt, job, FailureClass.INFRASTRUCTURE, "it was stopped before it began")
        else:
            self.submit(attempt, job)

    def _mark_running(self, attempt: Attempt, job: Job) -> None:
        with self._jobs.write() as jobs:
            jobs.transition(
                job.id,
                JobState.RUNNING,
                message=None,
                attempt=attempt.number,
                only_from=[JobState.STARTING],
            )

    def _has_run_too_long(self, attempt: Attempt, job: Job) -> bool:
        if job.max_runtime is None or attempt.submitted_at is None:
            return False
        return (self._now() - attempt.submitted_at).total_seconds() > job.max_runtime

    def _settle(self, attempt: Attempt, job: Job, status: SubmissionStatus) -> None:
        """End an attempt whose driver has exited, and say why it did."""
        if status.state is SubmissionState.SUCCEEDED:
            stopping = job.state == JobState.STOPPING.value
            if stopping or not self._waits_for_metrics(attempt):
                self._end(attempt, job, None, None)
            return
        failure = FailureClass.of_exit_code(status.exit_code)
        reason = self._stated_reason(attempt)
        if reason is None and status.exit_code is not None:
            reason = f"the driver exited with code {status.exit_code}; see its log"
        elif reason is None:
            first_line = (status.message or "").strip().splitlines()[:1]
            reason = f"the driver was lost: {first_line[0] if first_line else 'no reason given'}"
        self._end(attempt, job, failure, reason)

    def _waits_for_metrics(self, attempt: Attempt) -> bool:
        """Whether the attempt's last metrics are about to be copied from MLflow."""
        timeline = stored_timeline(attempt)
        if timeline is None or timeline.published is not None:
            return False
        since = self._succeeded_since.setdefault(attempt.submission_id, self._now())
        self._wants_reading()
        return (self._now() - since).total_seconds() < PUBLISHED_SECONDS

    def _stated_reason(self, attempt: Attempt) -> str | None:
        """Why the driver failed, if its log says so."""
        try:
            end = self._cluster.last_lines(attempt.submission_id, REASON_LINES)
        except LogUnavailable as error:
            logger.warning("%s: %s", attempt.submission_id, error)
            return None
        stated = [line for line in end.splitlines() if line.startswith(FAILURE_LINE)]
        return stated[-1].removeprefix(FAILURE_LINE) if stated else None

    def _end(
        self, attempt: Attempt, job: Job, failure: FailureClass | None, reason: str | None
    ) -> None:
        """End the attempt and move its job on, if the attempt is still the live one."""
        now = self._now()
        with self._database.write() as session:
            jobs = JobRepository(session, now)
            current = jobs.get(job.id)
            failed = [each for each in current.attempts if each.outcome not in UNCOUNTED]
            end = ending(
                current.stopping_for,
                current.reason,
                failure,
                reason,
                len(failed),
                job.max_attempts,
                self._settings.retry_backoff_seconds,
            )
            message, not_before = end.reason, None
            if end.wait is not None:
                message = (
                    f"attempt {len(failed)} of {job.max_attempts} failed, the next starts in "
                    f"{end.wait:g} s: {end.reason}"
                )
                not_before = now + timedelta(seconds=end.wait)
            elif end.state is JobState.QUEUED and current.displaced_by is not None:
                message = f"made room for job {current.displaced_by}"
            jobs.transition(
                job.id,
                end.state,
                message=message,
                attempt=attempt.number,
                failure=end.failure,
                not_before=not_before,
                stop_cause=current.stopping_for if end.state is JobState.QUEUED else None,
            )
            jobs.end_attempt(attempt, end.outcome, end.reason)
            self._account(session, attempt, current)
        ATTEMPTS.labels(job.kind, end.outcome).inc()
        because = f": {end.reason}" if end.reason else ""
        logger.info("attempt %s ended: %s%s", attempt.submission_id, end.outcome, because)

    def _account(self, session: Session, attempt: Attempt, job: Job) -> None:
        """Count what the attempt has used for the job's owner."""
        if job.needs is None:
            return
        now, half_life = self._now(), self._settings.fair_share_half_life_seconds
        start = attempt.submitted_at or attempt.created_at
        add_usage(
            session, job.owner, amount_of(job.needs, start, now, now, half_life), now, half_life
        )
