"""The use cases of the queue, for the API."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy.orm import Session

from vicreg_platform.clock import Clock, utc_now
from vicreg_platform.cluster import Capacity
from vicreg_platform.database import Database
from vicreg_platform.dispatch.demand import Demand, new_job, policy_of, read_demand, within
from vicreg_platform.dispatch.plan import Basis, Estimate, Running, Space, Verdict, plan
from vicreg_platform.dispatch.queue_snapshot import (
    QueueSnapshot,
    StoredPlace,
    as_datetime,
    read_snapshot,
)
from vicreg_platform.jobs.queue_schemas import Holder, OwnerShare, QueueEntry, QueueSchema
from vicreg_platform.jobs.repository import JobRepository, QueuedRow
from vicreg_platform.jobs.schemas import DryRun, JobSchema, QueuePlace
from vicreg_platform.jobs.states import JobState
from vicreg_platform.jobs.tables import Job
from vicreg_platform.needs import Bundle, Needs
from vicreg_platform.settings import Settings
from vicreg_platform.specs import parse_spec


class QueueService:
    """The use cases of the queue.

    Args:
        database: where jobs and the scheduler's snapshot are.
        settings: the deployment's policy.
        now: the clock.
    """

    def __init__(self, database: Database, settings: Settings, now: Clock = utc_now) -> None:
        self._database = database
        self._settings = settings
        self._policy = policy_of(settings)
        self._now = now

    def queue(self, limit: int) -> QueueSchema:
        """The queue, its first ``limit`` jobs, and what is on the cluster."""
        with self._database.read() as session:
            snapshot = read_snapshot(session, self._now())
            demand = self._demand(session)
            order = _order(demand.rows, snapshot)
            held = sorted(demand.running, key=lambda job: (-job.priority, job.started, job.id))
            shown = [row.id for row in order[:limit]] + [job.id for job in held[:limit]]
            named = JobRepository(session, self._now()).brief(shown)
        stored = {place.id: place for place in snapshot.content.places} if snapshot else {}
        return QueueSchema(
            policy=self._settings.queue_policy,
            at=snapshot and snapshot.at,
            total=len(order),
            items=[
                _entry(row, named[row.id], stored.get(row.id))
                for row in order[:limit]
                if row.id in named
            ],
            holders=[_holder(job, named[job.id]) for job in held[:limit] if job.id in named],
            shares=_shares(demand),
        )

    def placed(self, job: JobSchema) -> JobSchema:
        """The job, with where it stands if it is queued."""
        if job.state is not JobState.QUEUED:
            return job
        with self._database.read() as session:
            snapshot = read_snapshot(session, self._now())
        place = snapshot.place(job.id) if snapshot else None
        return job.model_copy(update={"queue": _place(place)})

    def foreseen(self, checked: DryRun, owner: str | None) -> DryRun:
        """What a POST would do, with where the job would stand and when it would start."""
        spec = parse_spec(checked.spec)
        waits = (
            spec.depends_on
            or spec.encoder_job
            or (spec.start_after is not None and spec.start_after > self._now())
        )
        if waits:
            return checked.model_copy(update={"reason": "waits for its start time or other jobs"})
        with self._database.read() as session:
            snapshot = read_snapshot(session, self._now())
            demand = self._demand(session)
        if snapshot is None or not snapshot.content.nodes:
            return checked
        space = snapshot.content.space
        job = new_job(spec, owner)
        demand, _ = within(_as_capacity(space), demand)
        now = self._now().timestamp()
        queued = [*demand.queued, job]
        made = plan(queued, demand.running, space, demand.usage, self._policy, now)
        place = next(each for each in made.places if each.job.id == job.id)
        if place.verdict is Verdict.STARTS:
            start = QueuePlace(
                position=place.position, waits_for=[], start=self._now(), basis="progress"
            )
            return checked.model_copy(update={"queue": start})
        reason = place.reason
        if place.verdict is Verdict.TOO_LARGE:
            needs = Needs(job.bundle, job.sizes[0])
            reason = f"it needs {needs}, more than the cluster has now"
        return checked.model_copy(
            update={
                "reason": reason,
                "queue": QueuePlace(
                    position=place.position,
                    waits_for=list(place.by),
                    start=_start(place.estimate),
                    basis=place.estimate and place.estimate.basis.value,
                ),
            }
        )

    def _demand(self, session: Session) -> Demand:
        half_life = self._settings.fair_share_half_life_seconds
        return read_demand(session, self._now(), half_life, {})


def _order(rows: Mapping[str, QueuedRow], snapshot: QueueSnapshot | None) -> list[QueuedRow]:
    """The jobs in the snapshot's order, then those that it does not have."""
    places = {place.id: place.position for place in snapshot.content.places} if snapshot else {}
    return sorted(
        rows.values(),
        key=lambda row: (places.get(row.id, len(rows) + 1), -row.priority, row.id),
    )


def _entry(row: QueuedRow, job: Job, place: StoredPlace | None) -> QueueEntry:
    needs = row.needs
    if needs is not None and row.worker_sizes:
        needs = Needs(needs.bundle, row.worker_sizes[0])
    return QueueEntry(
        **_place(place).model_dump(),
        job_id=row.id,
        name=job.name,
        kind=row.kind,
        owner=row.owner,
        priority=row.priority,
        needs=str(needs) if needs else "unknown: its spec is unreadable",
        workers=row.worker_sizes,
        reason=row.reason,
        made_room_for=row.displaced_by,
    )


def _holder(running: Running, job: Job) -> Holder:
    since = as_datetime(running.started)
    assert since is not None
    return Holder(
        job_id=job.id,
        name=job.name,
        kind=job.kind,
        owner=job.owner,
        priority=running.priority,
        state=JobState(job.state),
        cpus=running.bundle.cpus * running.size,
        gpus=running.bundle.gpus * running.size,
        preemptible=running.preemptible,
        since=since,
        ends=as_datetime(running.ends),
        basis=None if running.ends is None else Basis.of(running.limit).value,
    )


def _place(place: StoredPlace | None) -> QueuePlace:
    if place is None:
        return QueuePlace(position=None, waits_for=[], start=None, basis=None)
    return QueuePlace(
        position=place.position,
        waits_for=place.by,
        start=as_datetime(place.at),
        basis=place.basis and place.basis.value,
    )


def _start(estimate: Estimate | None) -> datetime | None:
    return None if estimate is None else as_datetime(estimate.at)


def _shares(demand: Demand) -> list[OwnerShare]:
    owners = {job.owner for job in demand.queued} | {job.owner for job in demand.running}
    shares = []
    for owner in owners:
        usage = demand.usage.get(owner)
        shares.append(
            OwnerShare(
                owner=owner,
                used=usage.amount if usage else 0.0,
                weight=usage.weight if usage else 1.0,
            )
        )
    return sorted(shares, key=lambda share: (share.used / share.weight, share.owner or ""))


def _as_capacity(space: Space) -> Capacity:
    used = Bundle(sum(node.cpus for node in space.taken), sum(node.gpus for node in space.taken))
    return Capacity(space.nodes, used)
