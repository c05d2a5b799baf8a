"""Jobs off the cluster: releases those whose wait is over, and starts those that fit."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from vicreg_platform.clock import Clock
from vicreg_platform.cluster import Capacity, Cluster
from vicreg_platform.contract.failure_class import FailureClass
from vicreg_platform.dispatch.attempts import Attempts
from vicreg_platform.dispatch.containment import contained
from vicreg_platform.jobs.repository import Jobs
from vicreg_platform.jobs.states import JobState
from vicreg_platform.jobs.tables import Job
from vicreg_platform.needs import Bundle, Needs
from vicreg_platform.specs.stored import Unreadable, read_spec
from vicreg_platform.telemetry import QUEUE_WAIT

TOO_LARGE_SECONDS = 600.0
"""How long a job too large for the whole cluster waits: nodes come back, or are added."""
RELEASED_SECONDS = 15.0
"""How long Ray may count as in use what an ended attempt occupied."""
REMEMBERED = 100
"""Sets of nodes that the cluster has had, of which a job may fit one that is not there now."""
BATCH = 100
"""Waiting or overdue jobs looked at in one round; queued jobs read at a time."""


class Queue:
    """The jobs that are waiting or queued.

    Args:
        jobs: where they are stored.
        cluster: where they are to run.
        attempts: submits what starts, and explains what does not.
        now: the clock.
    """

    def __init__(
        self,
        jobs: Jobs,
        cluster: Cluster,
        attempts: Attempts,
        now: Clock,
    ) -> None:
        self._jobs = jobs
        self._cluster = cluster
        self._attempts = attempts
        self._now = now
        self._too_large_since: dict[str, datetime] = {}
        self._had: dict[tuple[Bundle, ...], Capacity] = {}

    def fail_overdue(self) -> None:
        """Fail the jobs that have not finished by their deadline."""
        with self._jobs.read() as jobs:
            overdue = jobs.overdue(BATCH)
        for job in overdue:
            assert job.deadline is not None
            reason = f"had not finished by its deadline, {job.deadline.isoformat()}"
            with contained(job):
                self._attempts.time_out(job, reason)

    def release(self) -> None:
        """Queue the jobs whose wait is over, and cancel those whose dependencies failed."""
        with self._jobs.read() as jobs:
            unsatisfiable = jobs.unsatisfiable(BATCH)
            ready = jobs.ready(BATCH)
        for job, other in unsatisfiable:
            reason = f"job {other.id}, which it waited for, is {other.state}"
            with contained(job):
                self._move(job, JobState.CANCELLED, reason)
        for job in ready:
            with contained(job):
                self._move(job, JobState.QUEUED, None)

    def start(self) -> None:
        """Start queued jobs in order, until one does not fit.

        Raises:
            Unavailable: the database or Ray is unreachable.
        """
        capacity: Capacity | None = None
        live: list[Needs] = []
        released: list[Needs] = []
        for job in self._queued():
            if capacity is None:
                capacity = self._cluster.capacity()
                live, released = self._reserved(capacity), self._released(capacity)
                self._remember(capacity)
            with contained(job):
                spec = read_spec(job.spec, job.spec_version)
                if isinstance(spec, Unreadable):
                    self._attempts.explain(job, f"its spec is unreadable: {spec.reason}")
                    continue
                needs = capacity.limited(job.needs or spec.needs())
                if not capacity.can_ever_hold(needs):
                    self._follow_too_large(job, needs, capacity)
                    continue
                self._too_large_since.pop(job.id, None)
                if not capacity.has_room(needs, live, released):
                    # Later jobs must not overtake: a large job would wait forever.
                    self._attempts.explain(job, f"waits for room: it needs {needs}")
                    return
                encoder = spec.encoder_job
                if encoder is not None and self._run_of(encoder) is None:
                    self._attempts.explain(
                        job, f"waits until MLflow is reachable: the run of job {encoder}"
                    )
                    continue
                self._start(job)
                live.append(needs)

    def _remember(self, capacity: Capacity) -> None:
        """Note that the cluster has had these nodes; of many such sets, the latest are kept."""
        nodes = tuple(sorted(capacity.nodes, key=lambda node: (node.cpus, node.gpus)))
        self._had.pop(nodes, None)
        self._had[nodes] = capacity
        while len(self._had) > REMEMBERED:
            self._had.pop(next(iter(self._had)))

    def _queued(self) -> Iterator[Job]:
        """The jobs that may start now, in order; read in batches, all of which one may need."""
        after: Job | None = None
        while True:
            with self._jobs.read() as jobs:
                batch = jobs.queued(BATCH, after)
            yield from batch
            if len(batch) < BATCH:
                return
            after = batch[-1]

    def _reserved(self, capacity: Capacity) -> list[Needs]:
        """What the attempts on the cluster occupy, or will."""
        with self._jobs.read() as jobs:
            running = [job for _, job in jobs.live_attempts()]
        return [capacity.limited(job.needs) for job in running if job.needs is not None]

    def _released(self, capacity: Capacity) -> list[Needs]:
        """What attempts that have just ended occupied."""
        with self._jobs.read() as jobs:
            ended = jobs.ended_since(self._now() - timedelta(seconds=RELEASED_SECONDS))
        return [capacity.limited(job.needs) for job in ended if job.needs is not None]

    def _follow_too_large(self, job: Job, needs: Needs, capacity: Capacity) -> None:
        """Fail a job too large for the cluster, after ten minutes' grace.

        A cluster that has lost nodes is not one that the job is too large for.
        """
        reason = f"it needs {needs}, and the cluster has {capacity}"
        once = [known for known in self._had.values() if known.can_ever_hold(needs)]
        if once or not capacity.nodes:
            self._too_large_since.pop(job.id, None)
            had = f", and had {once[-1]}" if once else ""
            self._attempts.explain(job, f"waits for a node to come back: {reason}{had}")
            return
        since = self._too_large_since.setdefault(job.id, self._now())
        if (self._now() - since).total_seconds() < TOO_LARGE_SECONDS:
            self._attempts.explain(job, f"waits for a larger cluster: {reason}")
            return
        minutes = TOO_LARGE_SECONDS / 60
        message = f"{reason}, and has had no more for {minutes:g} minutes"
        self._move(job, JobState.FAILED, message, FailureClass.USER)

    def _start(self, job: Job) -> None:
        """Store the attempt, then submit it."""
        with self._jobs.write() as jobs:
            jobs.transition(job.id, JobState.STARTING, message=None)
            attempt = jobs.open_attempt(job.id, len(job.attempts) + 1)
        if attempt.number == 1:
            QUEUE_WAIT.observe((self._now() - job.created_at).total_seconds())
        self._attempts.submit(attempt, job)

    def _run_of(self, job_id: str) -> str | None:
        with self._jobs.read() as jobs:
            return jobs.run_of(job_id)

    def _move(
        self, job: Job, state: JobState, message: str | None, failure: FailureClass | None = None
    ) -> None:
        with self._jobs.write() as jobs:
            jobs.transition(job.id, state, message=message, failure=failure and failure.value)
