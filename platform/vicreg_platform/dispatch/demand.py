"""What the plan is made of: the jobs that wait, those that run, and what is free for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from vicreg_platform.cluster import Capacity
from vicreg_platform.contract.progress import read_progress
from vicreg_platform.dispatch.plan import Policy, Queued, Running, Space, Usage
from vicreg_platform.dispatch.usage import amount_of, usage_of_owners
from vicreg_platform.jobs.repository import JobRepository, OccupyingRow, QueuedRow
from vicreg_platform.jobs.states import JobState, StopCause
from vicreg_platform.keys.repository import KeyRepository
from vicreg_platform.needs import Bundle, Needs
from vicreg_platform.settings import Settings
from vicreg_platform.specs import JobSpec

RELEASED_SECONDS = 15.0
"""How long Ray may count as in use what an ended attempt occupied."""


@dataclass(frozen=True)
class Demand:
    """What the database wants of the cluster."""

    queued: list[Queued]
    running: list[Running]
    usage: dict[str | None, Usage]
    rows: dict[str, QueuedRow]
    """Of the queued jobs, by id."""
    unreadable: list[str]
    """Queued jobs of which it is not known what they need."""
    in_driver: frozenset[str]
    """Running jobs whose driver does all of the work, and holds their resources."""
    released: list[Needs]
    """What attempts that have just ended occupied."""


def policy_of(settings: Settings) -> Policy:
    """The policy of a deployment."""
    return Policy(
        backfill=settings.queue_policy == "backfill",
        preemption=settings.preemption,
        preempt_after=settings.preempt_after_seconds,
        resize_after=settings.resize_after_seconds,
        grow_after=settings.grow_after_seconds,
    )


def read_demand(
    session: Session, now: datetime, half_life: float, growable: Mapping[str, float]
) -> Demand:
    """Read what the database wants.

    Args:
        session: an open transaction.
        now: the clock.
        half_life: seconds after which what an owner has used counts half.
        growable: since when elastic jobs could have grown.
    """
    jobs = JobRepository(session, now)
    amounts = usage_of_owners(session, now, half_life)
    weights = KeyRepository(session, now).weights()
    running: list[Running] = []
    in_driver = set()
    for occupying in jobs.occupying():
        needs = occupying.needs
        if needs is None:
            continue
        used = amount_of(needs, occupying.started, now, now, half_life)
        amounts[occupying.owner] = amounts.get(occupying.owner, 0.0) + used
        running.append(_running(occupying, needs, growable.get(occupying.id), now))
        if occupying.kind != "sweep" and needs.count == 1:
            in_driver.add(occupying.id)
    rows = {row.id: row for row in jobs.queued()}
    queued = [_queued(row, needs) for row in rows.values() if (needs := row.needs) is not None]
    known = {job.id for job in queued}
    since = now - timedelta(seconds=RELEASED_SECONDS)
    ended = [job.needs for job in jobs.ended_since(since)]
    return Demand(
        queued=queued,
        running=running,
        usage={
            owner: Usage(amounts.get(owner, 0.0), weights.get(owner or "", 1.0))
            for owner in amounts.keys() | weights.keys()
        },
        rows=rows,
        unreadable=[job_id for job_id in rows if job_id not in known],
        in_driver=frozenset(in_driver),
        released=[needs for needs in ended if needs is not None],
    )


def new_job(spec: JobSpec, owner: str | None) -> Queued:
    """A job that is not stored: younger than all others."""
    needs, limit = spec.needs(), spec.max_runtime
    return Queued(
        id="~",
        priority=spec.priority,
        owner=owner,
        bundle=needs.bundle,
        sizes=spec.elastic_sizes or (needs.count,),
        runtime=None if limit is None else limit.total_seconds(),
        limit=True,
    )


def within(capacity: Capacity, demand: Demand) -> tuple[Demand, Space]:
    """The demand, with what is known of where jobs run, and the room that there is for it.

    A sweep asks for no more trials at once than the empty cluster holds.
    """
    held = {bundle: capacity.bundles(bundle) for bundle in {job.bundle for job in demand.running}}
    running = [
        job
        if job.size <= held[job.bundle] or job.sizes
        else replace(job, size=max(1, held[job.bundle]))
        for job in demand.running
    ]
    queued = [_limited(job, demand.rows[job.id], capacity) for job in demand.queued]
    placed = _known_places(capacity, running, demand.in_driver)
    known = replace(demand, running=placed, queued=queued)
    released = [capacity.limited(needs) for needs in demand.released]
    return known, Space(capacity.nodes, _taken(capacity, placed, released))


def _queued(row: QueuedRow, needs: Needs) -> Queued:
    progress = read_progress(row.progress)
    runtime, limit = (None, False) if progress is None else (progress.eta_seconds, False)
    if runtime is None and row.max_runtime is not None:
        runtime, limit = row.max_runtime, True
    return Queued(
        id=row.id,
        priority=row.priority,
        owner=row.owner,
        bundle=needs.bundle,
        sizes=tuple(row.worker_sizes or (needs.bundles,)),
        runtime=runtime,
        limit=limit,
        resizing=row.stop_cause == StopCause.RESIZED.value,
        submitted=row.created_at.timestamp(),
    )


def _running(row: OccupyingRow, needs: Needs, growable: float | None, now: datetime) -> Running:
    progress = read_progress(row.progress)
    ends: float | None = None
    limit = False
    if progress is not None and row.progress_at is not None:
        ends = row.progress_at.timestamp() + progress.eta_seconds
    if row.max_runtime is not None:
        latest = row.started.timestamp() + row.max_runtime
        if ends is None or latest < ends:
            ends, limit = latest, True
    runs = row.state == JobState.RUNNING.value
    saved = progress.saved_at if progress is not None else None
    return Running(
        id=row.id,
        priority=row.priority,
        owner=row.owner,
        bundle=needs.bundle,
        size=needs.bundles,
        started=row.started.timestamp(),
        # One that is starting is left alone until it runs.
        sizes=tuple(row.worker_sizes or ()) if runs else (),
        preemptible=bool(row.preemptible) and runs,
        # A node's clock may be ahead.
        saved=None if saved is None else min(saved, now).timestamp(),
        ends=ends,
        limit=limit,
        resized=None if row.resized_at is None else row.resized_at.timestamp(),
        could_grow_since=growable,
        stopping=row.state == JobState.STOPPING.value,
    )


def _limited(job: Queued, row: QueuedRow, capacity: Capacity) -> Queued:
    if not row.trials_at_once or row.trials_at_once == 1 or row.needs is None:
        return job
    return replace(job, sizes=(capacity.limited(row.needs).bundles,))


def _known_places(
    capacity: Capacity, running: Sequence[Running], in_driver: frozenset[str]
) -> list[Running]:
    """The running jobs, with what they are known to occupy of which node."""
    if len(capacity.nodes) == 1:
        return [
            replace(job, on=((0, Bundle(job.bundle.cpus * job.size, job.bundle.gpus * job.size)),))
            for job in running
        ]
    if capacity.placed is None:
        return list(running)
    on: dict[str, list[tuple[int, Bundle]]] = {}
    for node, jobs in enumerate(capacity.placed):
        for submission, bundle in jobs.items():
            on.setdefault(submission.rpartition("-")[0], []).append((node, bundle))
    known = []
    for job in running:
        spots = on.get(job.id, [])
        if job.id in in_driver and spots:
            spots = [(spots[0][0], job.bundle)]
        known.append(replace(job, on=tuple((n, b) for n, b in spots if b.cpus or b.gpus)))
    return known


def _taken(
    capacity: Capacity, running: Sequence[Running], released: Sequence[Needs]
) -> tuple[Bundle, ...]:
    """What others than the platform's jobs use of each node.

    Attempts that were just submitted reserve late, and Ray counts those that have just ended for
    some seconds more: what these may explain is not taken for others'.
    """
    own = [Bundle(0, 0)] * len(capacity.nodes)
    unplaced = list(released)
    for job in running:
        for node, bundle in job.on:
            own[node] = Bundle(own[node].cpus + bundle.cpus, own[node].gpus + bundle.gpus)
        if not job.on:
            unplaced.append(Needs(job.bundle, job.size))
    if capacity.free is None:
        free: Sequence[Bundle] = capacity.nodes
        rest = Bundle(
            capacity.used.cpus - sum(n.cpus for n in own) - sum(n.cpus for n in unplaced),
            capacity.used.gpus - sum(n.gpus for n in own) - sum(n.gpus for n in unplaced),
        )
        return _spread(free, rest)
    taken = tuple(
        Bundle(
            max(0.0, has.cpus - left.cpus - ours.cpus), max(0.0, has.gpus - left.gpus - ours.gpus)
        )
        for has, left, ours in zip(capacity.nodes, capacity.free, own, strict=True)
    )
    if sum(each.cpus for each in taken) <= sum(each.cpus for each in unplaced) and sum(
        each.gpus for each in taken
    ) <= sum(each.gpus for each in unplaced):
        return ()
    return taken


def _spread(nodes: Sequence[Bundle], amount: Bundle) -> tuple[Bundle, ...]:
    """An amount, taken from the nodes one after the other."""
    cpus, gpus = max(0.0, amount.cpus), max(0.0, amount.gpus)
    taken = []
    for node in nodes:
        taken.append(Bundle(min(cpus, node.cpus), min(gpus, node.gpus)))
        cpus, gpus = cpus - taken[-1].cpus, gpus - taken[-1].gpus
    return tuple(taken)
