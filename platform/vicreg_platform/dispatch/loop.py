"""The reconcile loop: read what the database wants, ask Ray what is, act on the difference.

It keeps nothing in memory that matters: it can be killed at any line and started again, and a
second one on the same database waits for the first one's lease to end.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from vicreg_platform.cluster import (
    Capacity,
    Cluster,
    Needs,
    SubmissionState,
    SubmissionStatus,
)
from vicreg_platform.cluster.needs import needs_of, submission_of, trials_at_once
from vicreg_platform.contract.assignment import FAILURE_LINE, Assignment, FailureClass
from vicreg_platform.contract.trial import TrialState
from vicreg_platform.database import Database
from vicreg_platform.errors import (
    IllegalTransition,
    InvalidSpec,
    NotFound,
    QuotaExceeded,
    SubmissionRefused,
    TrackingRefused,
    TrackingUnavailable,
    Unavailable,
)
from vicreg_platform.jobs.leaderboard import best_trial
from vicreg_platform.jobs.repository import JobRepository
from vicreg_platform.jobs.service import JobService, utc_now
from vicreg_platform.jobs.states import ON_CLUSTER, TERMINAL, JobState
from vicreg_platform.jobs.tables import Attempt, Job, new_id
from vicreg_platform.schedules.service import ScheduleService
from vicreg_platform.settings import Settings
from vicreg_platform.specs import SweepSpec, parse_spec
from vicreg_platform.telemetry import (
    ATTEMPTS,
    FIRST_STEP,
    LAST_ROUND,
    QUEUE_WAIT,
    ROUND_SECONDS,
    ROUNDS,
)
from vicreg_platform.tracking import Tracking

logger = logging.getLogger(__name__)

LEASE = "dispatcher"
LEASE_SECONDS = 15.0
PAUSE_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 300.0
TOO_LARGE_SECONDS = 600.0
"""How long a job that the whole cluster cannot hold waits: nodes come back, or are added."""
BATCH = 100
"""Queued, waiting or unarchived jobs looked at in one round."""
_RUN_STATUS = {
    JobState.SUCCEEDED: "FINISHED",
    JobState.FAILED: "FAILED",
    JobState.CANCELLED: "KILLED",
}


class Dispatcher:
    """Moves jobs between the database and the cluster.

    Args:
        database: what the users want.
        cluster: what is.
        tracking: where runs are made, read and closed.
        settings: what workers are told of the world.
        now: the clock.
    """

    def __init__(
        self,
        database: Database,
        cluster: Cluster,
        tracking: Tracking,
        settings: Settings,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._cluster = cluster
        self._tracking = tracking
        self._settings = settings
        self._now = now
        self._service = JobService(database, settings.data_root, settings.mlflow_public_url, now)
        self._schedules = ScheduleService(database, self._service, now)
        self._too_large_since: dict[str, datetime] = {}
        self._holder = f"{socket.gethostname()}-{os.getpid()}-{new_id()}"

    def run(self, stop: threading.Event) -> None:
        """Go round until ``stop`` is set."""
        complaint = ""
        while not stop.is_set():
            try:
                with ROUND_SECONDS.time():
                    at_work = self.round()
                complaint = ""
                if at_work:
                    ROUNDS.labels("whole").inc()
                    LAST_ROUND.set_to_current_time()
            except Unavailable as error:
                ROUNDS.labels("unavailable").inc()
                if str(error) != complaint:
                    logger.warning("%s; trying on", error)
                complaint = str(error)
            except Exception:
                ROUNDS.labels("failed").inc()
                logger.exception("a round failed; trying on")
            stop.wait(PAUSE_SECONDS)
        with self._database.write() as session:
            self._jobs(session).give_up_lease(LEASE, self._holder)

    def round(self) -> bool:
        """One look at everything that is not at rest.

        Returns:
            False where another dispatcher is at work, and nothing was done.

        Raises:
            Unavailable: something did not answer; what was done until then stays done.
        """
        with self._database.write() as session:
            if not self._jobs(session).hold_lease(LEASE, self._holder, LEASE_SECONDS):
                return False
        # What needs the database alone comes first: it goes on while Ray or MLflow is away.
        self._schedules.tick()
        self._fail_overdue()
        with self._database.read() as session:
            live = self._jobs(session).live_attempts()
        for attempt, job in live:
            with _contained(job):
                self._follow(attempt, job)
        self._archive()
        self._release_waiting()
        self._start_queued()
        return True

    # Attempts on the cluster

    def _follow(self, attempt: Attempt, job: Job) -> None:
        status = self._cluster.status(attempt.submission_id)
        if status is None:
            self._follow_unknown(attempt, job)
            return
        if attempt.submitted_at is None:
            with self._database.write() as session:
                self._jobs(session).mark_submitted(attempt)
        if status.state in (SubmissionState.PENDING, SubmissionState.RUNNING):
            if job.state == JobState.STOPPING.value:
                self._cluster.stop(attempt.submission_id)
            elif self._has_run_too_long(attempt, job):
                reason = f"attempt {attempt.number} took longer than {job.max_runtime:g} s"
                self._time_out(job, reason, attempt.number)
            elif status.state is SubmissionState.RUNNING:
                self._follow_running(attempt, job)
            elif self._settings.ray_nodes is not None:
                self._explain(job, "waits for a node of the cluster to come up")
            return
        self._settle(attempt, job, status)

    def _has_run_too_long(self, attempt: Attempt, job: Job) -> bool:
        if job.max_runtime is None or attempt.submitted_at is None:
            return False
        return (self._now() - attempt.submitted_at).total_seconds() > job.max_runtime

    def _follow_unknown(self, attempt: Attempt, job: Job) -> None:
        if attempt.submitted_at is not None:
            self._end(
                attempt,
                job,
                FailureClass.INFRASTRUCTURE,
                "Ray no longer knows the attempt: its head was lost or started anew",
            )
        elif job.state == JobState.STOPPING.value:
            self._end(attempt, job, None, None)
        else:
            self._submit(attempt, job)

    def _follow_running(self, attempt: Attempt, job: Job) -> None:
        if job.state == JobState.STARTING.value:
            with self._database.write() as session:
                self._jobs(session).transition(
                    job.id,
                    JobState.RUNNING,
                    message=None,
                    attempt=attempt.number,
                    only_from=[JobState.STARTING],
                )
        self._read_run(job)

    def _settle(self, attempt: Attempt, job: Job, status: SubmissionStatus) -> None:
        """The driver has ended: say how."""
        self._read_run(job)
        if status.state is SubmissionState.SUCCEEDED:
            self._end(attempt, job, None, None)
            return
        failure = FailureClass.of_exit_code(status.exit_code)
        log = self._cluster.log(attempt.submission_id) or ""
        stated = [line for line in log.splitlines() if line.startswith(FAILURE_LINE)]
        if stated:
            reason = stated[-1].removeprefix(FAILURE_LINE)
        elif status.exit_code is not None:
            reason = f"the driver ended with exit code {status.exit_code}; its log says more"
        else:
            first_line = (status.message or "").strip().splitlines()[:1]
            reason = f"the driver was lost: {first_line[0] if first_line else 'no reason given'}"
        self._end(attempt, job, failure, reason)

    def _end(
        self, attempt: Attempt, job: Job, failure: FailureClass | None, reason: str | None
    ) -> None:
        """Close the attempt and move the job on, if the attempt is still the live one."""
        with self._database.write() as session:
            jobs = self._jobs(session)
            current = jobs.get(job.id)
            state = JobState(current.state)
            number = attempt.number
            if state is JobState.STOPPING and current.failure is not None:
                outcome, reason = current.failure, current.reason
                jobs.transition(
                    job.id, JobState.FAILED, message=reason, attempt=number, failure=outcome
                )
            elif state is JobState.STOPPING:
                outcome = "cancelled"
                jobs.transition(job.id, JobState.CANCELLED, message=current.reason, attempt=number)
            elif failure is None:
                outcome = "succeeded"
                jobs.transition(job.id, JobState.SUCCEEDED, message=None, attempt=number)
            elif failure is FailureClass.INFRASTRUCTURE and number < job.max_attempts:
                outcome = failure.value
                wait = self._backoff(number)
                jobs.transition(
                    job.id,
                    JobState.QUEUED,
                    message=f"attempt {number} of {job.max_attempts} failed, the next starts in "
                    f"{wait:g} s: {reason}",
                    attempt=number,
                    not_before=self._now() + timedelta(seconds=wait),
                )
            else:
                outcome = failure.value
                jobs.transition(
                    job.id,
                    JobState.FAILED,
                    message=reason,
                    attempt=number,
                    failure=failure.value,
                )
            jobs.end_attempt(attempt, outcome, reason)
        ATTEMPTS.labels(job.kind, outcome).inc()
        logger.info("attempt %s ended: %s%s", attempt.submission_id, outcome, _because(reason))

    def _backoff(self, number: int) -> float:
        wait = self._settings.retry_backoff_seconds * 2.0 ** (number - 1)
        return min(MAX_BACKOFF_SECONDS, wait)

    def _read_run(self, job: Job) -> None:
        """Copy progress and metrics from the run; MLflow being away is no reason to stop."""
        if job.run_id is None:
            return
        try:
            reading = self._tracking.read(job.run_id)
        except (TrackingUnavailable, TrackingRefused, NotFound):
            return
        if reading.progress == job.progress and reading.metrics == job.summary:
            return
        with self._database.write() as session:
            self._jobs(session).set_reading(job.id, reading.progress, reading.metrics)
        if job.kind == "pretrain" and not _steps(job.progress) and _steps(reading.progress):
            FIRST_STEP.observe((self._now() - job.created_at).total_seconds())

    # Attempts that have ended

    def _archive(self) -> None:
        """Keep the logs of ended attempts with their runs, and close the runs of ended jobs."""
        with self._database.read() as session:
            ended = self._jobs(session).unarchived_attempts(BATCH)
        for attempt, job in ended:
            try:
                with _contained(job):
                    self._archive_attempt(attempt, job)
            except TrackingUnavailable:
                return

    def _archive_attempt(self, attempt: Attempt, job: Job) -> None:
        if job.run_id is not None:
            try:
                self._close_run(job.run_id, attempt, job)
            except (NotFound, TrackingRefused) as error:
                logger.warning("the log of %s cannot be kept: %s", attempt.submission_id, error)
        with self._database.write() as session:
            self._jobs(session).mark_archived(attempt)

    def _close_run(self, run_id: str, attempt: Attempt, job: Job) -> None:
        log = self._cluster.log(attempt.submission_id)
        if log is not None or not self._tracking.has_log(run_id, attempt.number):
            log = "the log was lost with the Ray head\n" if log is None else log
            self._tracking.keep_log(run_id, attempt.number, log)
        if JobState(job.state) in TERMINAL:
            if job.kind == "sweep":
                self._close_sweep(job, run_id)
            self._read_run(job)
            self._tracking.finish(run_id, _RUN_STATUS[JobState(job.state)])

    def _close_sweep(self, job: Job, run_id: str) -> None:
        """Close the runs of trials that ended with their sweep, and promote its best."""
        if job.state == JobState.SUCCEEDED.value and job.spec["promote"]:
            view = self._service.get(job.id)
            try:
                promoted = self._service.promote(job.id, best_trial(self._tracking, view))
                logger.info("sweep %s: job %s trains its best", job.id, promoted.id)
            except (InvalidSpec, IllegalTransition, QuotaExceeded) as error:
                logger.warning("the best of sweep %s cannot be trained: %s", job.id, error)
        for trial, trial_run, _ in self._tracking.trials(run_id):
            if trial.state is TrialState.RUNNING:
                self._tracking.keep_trial(
                    trial_run, trial.model_copy(update={"state": TrialState.CANCELLED})
                )

    # Jobs that are not on the cluster

    def _fail_overdue(self) -> None:
        """End what has not ended by its deadline."""
        with self._database.read() as session:
            overdue = self._jobs(session).overdue(BATCH)
        for job in overdue:
            assert job.deadline is not None
            reason = f"had not ended by its deadline, {job.deadline.isoformat()}"
            with _contained(job):
                self._time_out(job, reason)

    def _time_out(self, job: Job, reason: str, attempt: int | None = None) -> None:
        """Fail a job whose time is over: by way of ``stopping`` where it is on the cluster."""
        on_cluster = JobState(job.state) in ON_CLUSTER
        with self._database.write() as session:
            self._jobs(session).transition(
                job.id,
                JobState.STOPPING if on_cluster else JobState.FAILED,
                message=reason,
                only_from=[JobState(job.state)],
                attempt=attempt,
                failure=FailureClass.TIMEOUT.value,
            )

    def _release_waiting(self) -> None:
        with self._database.read() as session:
            forsaken = self._jobs(session).forsaken(BATCH)
            released = self._jobs(session).released(BATCH)
        for job, other in forsaken:
            reason = f"job {other.id}, which it waited for, is {other.state}"
            with _contained(job), self._database.write() as session:
                self._jobs(session).transition(job.id, JobState.CANCELLED, message=reason)
        for job in released:
            with _contained(job), self._database.write() as session:
                self._jobs(session).transition(job.id, JobState.QUEUED, message=None)

    def _start_queued(self) -> None:
        with self._database.read() as session:
            queued = self._jobs(session).queued(BATCH)
            running = [job for _, job in self._jobs(session).live_attempts()]
        if not queued:
            return
        capacity = self._cluster.capacity()
        live = [needs_of(parse_spec(job.spec), capacity) for job in running]
        for job in queued:
            with _contained(job):
                needs = needs_of(parse_spec(job.spec), capacity)
                if not capacity.can_ever_hold(needs):
                    self._follow_too_large(job, needs, capacity)
                    continue
                self._too_large_since.pop(job.id, None)
                if not _fits(needs, capacity, live):
                    # Later jobs must not overtake: a large job would wait for ever.
                    self._explain(job, f"waits for room: it needs {needs}")
                    return
                try:
                    self._start(job)
                except TrackingUnavailable as error:
                    self._explain(job, f"starts when MLflow is back: {error}")
                    return
                live.append(needs)

    def _follow_too_large(self, job: Job, needs: Needs, capacity: Capacity) -> None:
        """Refuse what the cluster cannot hold, unless it is only not whole yet."""
        reason = f"it needs {needs}, and the cluster has {capacity}"
        since = self._too_large_since.setdefault(job.id, self._now())
        if (self._now() - since).total_seconds() < TOO_LARGE_SECONDS:
            self._explain(job, f"waits for a larger cluster: {reason}")
            return
        with self._database.write() as session:
            self._jobs(session).transition(
                job.id,
                JobState.FAILED,
                message=f"{reason}, for {TOO_LARGE_SECONDS / 60:g} minutes now",
                failure=FailureClass.USER.value,
            )

    def _explain(self, job: Job, reason: str) -> None:
        if job.reason == reason:
            return
        with self._database.write() as session:
            self._jobs(session).set_reason(job.id, reason)

    def _start(self, job: Job) -> None:
        """Make the run, commit the intent, then call Ray."""
        try:
            self._ensure_run(job)
        except TrackingRefused as error:
            with self._database.write() as session:
                self._jobs(session).transition(
                    job.id,
                    JobState.FAILED,
                    message=str(error),
                    failure=FailureClass.USER.value,
                )
            return
        with self._database.write() as session:
            jobs = self._jobs(session)
            jobs.transition(job.id, JobState.STARTING, message=None)
            attempt = jobs.open_attempt(job.id, len(job.attempts) + 1)
        if attempt.number == 1:
            QUEUE_WAIT.observe((self._now() - job.created_at).total_seconds())
        self._submit(attempt, job)

    def _ensure_run(self, job: Job) -> None:
        if job.run_id is not None:
            return
        parent = self._run_of(parse_spec(job.spec).encoder_job)
        run_id, experiment_id = self._tracking.ensure_run(
            job.id, job.name, job.experiment, job.spec, parent
        )
        with self._database.write() as session:
            self._jobs(session).set_run(job.id, run_id, experiment_id)
        job.run_id = run_id

    def _submit(self, attempt: Attempt, job: Job) -> None:
        assert job.run_id is not None
        spec = parse_spec(job.spec)
        concurrency = 1
        if isinstance(spec, SweepSpec):
            concurrency = trials_at_once(spec, self._cluster.capacity())
        assignment = Assignment(
            job_id=job.id,
            attempt=attempt.number,
            spec=spec,
            concurrency=concurrency,
            run_id=job.run_id,
            encoder_run_id=self._run_of(spec.encoder_job),
            resume_from=job.retry_of,
            tracking_uri=self._settings.mlflow_url,
            storage=self._settings.storage,
            data_root=str(self._settings.data_root),
        )
        try:
            self._cluster.submit(submission_of(assignment, attempt.submission_id))
        except SubmissionRefused as error:
            self._end(attempt, job, FailureClass.INFRASTRUCTURE, str(error))
            return
        with self._database.write() as session:
            self._jobs(session).mark_submitted(attempt)
        logger.info("attempt %s submitted", attempt.submission_id)

    def _run_of(self, job_id: str | None) -> str | None:
        if job_id is None:
            return None
        with self._database.read() as session:
            return self._jobs(session).get(job_id).run_id

    def _jobs(self, session: Session) -> JobRepository:
        return JobRepository(session, self._now())


def _fits(needs: Needs, capacity: Capacity, live: list[Needs]) -> bool:
    """Whether there is room now.

    Ray's count of what is in use lags by seconds, and the attempts that this platform has on the
    cluster reserve their resources late: the larger of the two counts is believed.
    """
    total, used = capacity.total, capacity.used
    free_cpus = total.cpus - max(used.cpus, sum(other.cpus for other in live))
    free_gpus = total.gpus - max(used.gpus, sum(other.gpus for other in live))
    return needs.cpus <= free_cpus and needs.gpus <= free_gpus


@contextmanager
def _contained(job: Job) -> Iterator[None]:
    """Keep what goes wrong with one job from holding up the others.

    A decision that a user's cancel or another dispatcher was quicker than is dropped.
    """
    try:
        yield
    except Unavailable:
        raise
    except IllegalTransition as error:
        logger.info("overtaken: %s", error)
    except Exception:
        logger.exception("job %s is left as it is in this round", job.id)


def _steps(progress: dict[str, Any] | None) -> int:
    return int(progress["step"]) if progress else 0


def _because(reason: str | None) -> str:
    return f": {reason}" if reason else ""


def lease_is_held(database: Database) -> bool:
    """Whether some dispatcher is at work on a database."""
    with database.read() as session:
        return JobRepository(session, utc_now()).lease_is_held(LEASE)
