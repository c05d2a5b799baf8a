"""Jobs off the cluster: releases those whose wait is over, and carries out the plan."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from vicreg_platform.clock import Clock
from vicreg_platform.cluster import Capacity, Cluster
from vicreg_platform.contract.failure_class import FailureClass
from vicreg_platform.database import Database
from vicreg_platform.dispatch.attempts import Attempts
from vicreg_platform.dispatch.containment import contained
from vicreg_platform.dispatch.demand import Demand, policy_of, read_demand, within
from vicreg_platform.dispatch.plan import Place, Plan, Resize, Space, Start, Verdict, plan
from vicreg_platform.dispatch.queue_snapshot import SnapshotStore
from vicreg_platform.jobs.repository import Jobs
from vicreg_platform.jobs.states import JobState, StopCause
from vicreg_platform.needs import Bundle, Needs
from vicreg_platform.settings import Settings
from vicreg_platform.specs.stored import Unreadable, read_spec
from vicreg_platform.telemetry import QUEUE_WAIT

logger = logging.getLogger(__name__)

TOO_LARGE_SECONDS = 600.0
"""How long a job too large for the whole cluster waits: nodes come back, or are added."""
REMEMBERED = 100
"""Sets of nodes that the cluster has had, of which a job may fit one that is not there now."""
BATCH = 100
"""Waiting or overdue jobs looked at in one round."""
REPLANS = 10
"""How often a round plans again without the jobs that turned out not to be able to start."""
REASONS = 500
"""Reasons that are stored in one round: a change of the first job may change all others'."""


class Queue:
    """The jobs that are waiting or queued.

    Args:
        database: where they are stored.
        cluster: where they are to run.
        attempts: submits what starts, and explains what does not.
        settings: the deployment's policy.
        now: the clock.
    """

    def __init__(
        self,
        database: Database,
        cluster: Cluster,
        attempts: Attempts,
        settings: Settings,
        now: Clock,
    ) -> None:
        self._database = database
        self._jobs = Jobs(database, now)
        self._cluster = cluster
        self._attempts = attempts
        self._settings = settings
        self._policy = policy_of(settings)
        self._now = now
        self._snapshots = SnapshotStore(database, self._policy, now)
        self._too_large_since: dict[str, datetime] = {}
        self._growable: dict[str, float] = {}
        """Since when elastic jobs could have grown."""
        self._promised: str | None = None
        """The job that was promised the room. A restart forgets the promise."""
        self._unreadable: set[str] = set()
        self._had: dict[tuple[Bundle, ...], Capacity] | None = None
        """What the cluster has had, by its nodes; None before the first round."""

    def fail_overdue(self) -> None:
        """Fail the jobs that have not finished by their deadline."""
        with self._jobs.read() as jobs:
            overdue = jobs.overdue(BATCH)
        for job in overdue:
            assert job.deadline is not None
            reason = f"had not finished by its deadline, {job.deadline.isoformat()}"
            with contained(job.id):
                self._attempts.time_out(job, reason)

    def release(self) -> None:
        """Queue the jobs whose wait is over, and cancel those whose dependencies failed."""
        with self._jobs.read() as jobs:
            unsatisfiable = jobs.unsatisfiable(BATCH)
            ready = jobs.ready(BATCH)
        for job, other in unsatisfiable:
            reason = f"job {other.id}, which it waited for, is {other.state}"
            with contained(job.id):
                self._move(job.id, JobState.CANCELLED, reason)
        for job in ready:
            with contained(job.id):
                self._move(job.id, JobState.QUEUED, None)

    def start(self) -> None:
        """Do what the plan says: start jobs, make room for others, and say why the rest waits.

        Raises:
            Unavailable: the database or Ray is unreachable.
        """
        demand = self._read()
        self._explain_unreadable(demand)
        self._too_large_since = {
            job: since for job, since in self._too_large_since.items() if job in demand.rows
        }
        idle = not demand.queued and not any(job.sizes for job in demand.running)
        if idle and not self._snapshots.due():
            return
        capacity = self._cluster.capacity()
        had = self._remember(capacity)
        demand, space, made = self._carry_out_starts(demand, capacity)
        self._make_room(made)
        self._note_growth(made)
        waiting = [place for place in made.places if place.verdict is not Verdict.STARTS]
        self._explain(demand, waiting, capacity, list(had.values()))
        self._snapshots.store(space, waiting, had)

    def _carry_out_starts(self, demand: Demand, capacity: Capacity) -> tuple[Demand, Space, Plan]:
        """Start what the plan starts; plan again while some of it turns out not to be able to."""
        skipped = set(self._unreadable)
        for again in range(REPLANS):
            if again:
                demand = self._read()
            demand, space = within(capacity, demand)
            queued = [
                replace(job, promised=True) if job.id == self._promised else job
                for job in demand.queued
                if job.id not in skipped
            ]
            now = self._now().timestamp()
            made = plan(queued, demand.running, space, demand.usage, self._policy, now)
            started = set()
            for start in made.starts:
                with contained(start.id):
                    if self._start(start):
                        started.add(start.id)
            self._promised = made.promised
            failed = {start.id for start in made.starts} - started
            if not failed:
                break
            skipped |= failed
        return demand, space, made

    def _start(self, start: Start) -> bool:
        """Store the attempt, then submit it; False if it cannot be started now."""
        with self._jobs.read() as jobs:
            job = jobs.get(start.id)
        spec = read_spec(job.spec, job.spec_version)
        if isinstance(spec, Unreadable):
            self._unreadable.add(job.id)
            self._attempts.explain(job, f"its spec is unreadable: {spec.reason}")
            return False
        encoder = spec.encoder_job
        if encoder is not None and self._run_of(encoder) is None:
            self._attempts.explain(
                job, f"waits until MLflow is reachable: the run of job {encoder}"
            )
            return False
        workers = None if job.kind == "sweep" else start.size
        with self._jobs.write() as jobs:
            jobs.transition(job.id, JobState.STARTING, message=None)
            attempt = jobs.open_attempt(job.id, len(job.attempts) + 1, workers)
        if attempt.number == 1:
            QUEUE_WAIT.observe((self._now() - job.created_at).total_seconds())
        self._attempts.submit(attempt, job)
        return True

    def _read(self) -> Demand:
        half_life = self._settings.fair_share_half_life_seconds
        with self._database.read() as session:
            return read_demand(session, self._now(), half_life, self._growable)

    def _make_room(self, made: Plan) -> None:
        """Tell jobs to stop for others, or to continue with another number of workers."""
        for preemption in made.preemptions:
            with contained(preemption.id):
                self._stop(
                    preemption.id,
                    StopCause.PREEMPTED,
                    f"makes room for job {preemption.by}",
                    preemption.by,
                )
        for resize in made.resizes:
            with contained(resize.id):
                self._resize(resize)

    def _resize(self, resize: Resize) -> None:
        why = f"shrinks to {resize.size} workers: makes room for job {resize.by}"
        if resize.by is None:
            why = f"grows to {resize.size} workers"
        self._stop(resize.id, StopCause.RESIZED, why, resize.by)

    def _stop(self, job_id: str, cause: StopCause, message: str, by: str | None) -> None:
        with self._jobs.write() as jobs:
            jobs.transition(
                job_id,
                JobState.STOPPING,
                message=message,
                only_from=[JobState.RUNNING],
                stop_cause=cause,
                displaced_by=by,
            )
        logger.info("job %s %s", job_id, message)

    def _note_growth(self, made: Plan) -> None:
        now = self._now().timestamp()
        self._growable = {job: self._growable.get(job, now) for job in made.could_grow}

    def _explain(
        self,
        demand: Demand,
        waiting: Iterable[Place],
        capacity: Capacity,
        had: Sequence[Capacity],
    ) -> None:
        """Store why the jobs wait, if that has changed."""
        changed: dict[str, str] = {}
        for place in waiting:
            row = demand.rows[place.job.id]
            reason: str | None = None
            if place.verdict is Verdict.TOO_LARGE:
                assert row.needs is not None
                needs = Needs(place.job.bundle, place.job.sizes[0])
                with contained(row.id):
                    reason = self._follow_too_large(row.id, needs, capacity, had)
            else:
                self._too_large_since.pop(row.id, None)
                reason = place.reason
            if reason is None:
                continue
            if row.displaced_by is not None:
                reason = f"made room for job {row.displaced_by}, and {reason}"
            if reason != row.reason and len(changed) < REASONS:
                changed[row.id] = reason
        if changed:
            with self._jobs.write() as jobs:
                jobs.set_reasons(changed)

    def _explain_unreadable(self, demand: Demand) -> None:
        self._unreadable &= demand.rows.keys()
        for job_id in demand.unreadable:
            with contained(job_id), self._jobs.read() as jobs:
                job = jobs.get(job_id)
                spec = read_spec(job.spec, job.spec_version)
                if isinstance(spec, Unreadable):
                    self._attempts.explain(job, f"its spec is unreadable: {spec.reason}")

    def _follow_too_large(
        self, job_id: str, needs: Needs, capacity: Capacity, had: Sequence[Capacity]
    ) -> str | None:
        """Why a job too large for the cluster waits; None if it has failed, after ten minutes.

        A cluster that has lost nodes is not one that the job is too large for.
        """
        reason = f"it needs {needs}, and the cluster has {capacity}"
        once = [known for known in had if known.can_ever_hold(needs)]
        if once or not capacity.nodes:
            self._too_large_since.pop(job_id, None)
            before = f", and had {once[-1]}" if once else ""
            return f"waits for a node to come back: {reason}{before}"
        since = self._too_large_since.setdefault(job_id, self._now())
        if (self._now() - since).total_seconds() < TOO_LARGE_SECONDS:
            return f"waits for a larger cluster: {reason}"
        minutes = TOO_LARGE_SECONDS / 60
        message = f"{reason}, and has had no more for {minutes:g} minutes"
        self._move(job_id, JobState.FAILED, message, FailureClass.USER)
        return None

    def _remember(self, capacity: Capacity) -> dict[tuple[Bundle, ...], Capacity]:
        """Note that the cluster has had these nodes; of many such sets, the latest are kept."""
        if self._had is None:
            self._had = {nodes: Capacity(nodes, Bundle(0, 0)) for nodes in self._snapshots.had()}
        nodes = tuple(sorted(capacity.nodes, key=lambda node: (node.cpus, node.gpus)))
        self._had.pop(nodes, None)
        self._had[nodes] = capacity
        while len(self._had) > REMEMBERED:
            self._had.pop(next(iter(self._had)))
        return self._had

    def _run_of(self, job_id: str) -> str | None:
        with self._jobs.read() as jobs:
            return jobs.run_of(job_id)

    def _move(
        self,
        job_id: str,
        state: JobState,
        message: str | None,
        failure: FailureClass | None = None,
    ) -> None:
        with self._jobs.write() as jobs:
            jobs.transition(job_id, state, message=message, failure=failure and failure.value)
