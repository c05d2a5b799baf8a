"""Which jobs start, which make room, and why the others wait: a pure function.

The rules, in the order in which they apply:

1. **Order.** Higher priority first. Among equals, a job that is being resized keeps its place, and
   so does one that was promised the room: else owners who come and go could have it wait for ever.
   Next are jobs older than ``OVERDUE_SECONDS``, the oldest first, whoever's they are: shares delay
   a job, but not for ever. Then comes the owner who has used least for their weight
   (``Policy.fair_share``), with their oldest job. A job that comes earlier in the order counts as
   used already, for as long as it is expected to run: an owner's 300 jobs do not hold back
   another's first.
2. **Start.** In this order, each job that fits starts, on the largest number of workers that fits.
   A worker's CPUs and GPUs come from one node.
3. **Preemption.** A job that does not fit takes the room of running jobs of lower priority that are
   preemptible and have run for ``Policy.preempt_after``. Elastic ones shrink first; then the
   lowest priority stops first, then the one that loses least work, then the youngest. No more
   than needed are disturbed, and none if the job could not start even then.
4. **Reservation.** The first job that can do neither is promised the room at the earliest time by
   which running jobs will have left it (EASY backfill: Lifka 1995; Mu'alem and Feitelson 2001). A
   later job starts only if it ends before then, or uses what the promise does not need. A running
   job that does not say when it ends is expected never to: nothing that the promise needs is
   given away.
5. **Growth.** An elastic job grows when what it would take has been free for ``Policy.grow_after``,
   and neither the promise nor a job that waits for others to stop needs it.

With ``Policy.backfill`` off, the first job that does not fit holds up all others, in the order of
priority and age.
"""

from __future__ import annotations

import enum
import heapq
import math
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from vicreg_platform.needs import Bundle, Needs

EXPECTED_SECONDS = 600.0
"""How long a job of unknown length counts as running, in the order of owners."""
STOPPING_SECONDS = 30.0
"""How long a job that stops is expected to take."""
OVERDUE_SECONDS = 3 * 86400.0
"""The age from which a job goes before its owner's turn."""
CLAIMS = 10
"""Jobs for which room is made at once; the others' turn comes as soon as these have started."""
ESTIMATED = 100
"""Jobs at the front of the queue whose start is estimated."""


@dataclass(frozen=True)
class Policy:
    """What a deployment wants of its queue. Times are in seconds."""

    backfill: bool = True
    fair_share: bool = True
    preemption: bool = True
    elastic: bool = True
    preempt_after: float = 600.0
    """No job makes room sooner after its start."""
    resize_after: float = 600.0
    """No job is resized sooner after it was resized."""
    grow_after: float = 300.0
    """How long room must be free before a job grows into it."""


@dataclass(frozen=True)
class Queued:
    """A job that waits for room."""

    id: str
    """Ids sort by age."""
    priority: int
    owner: str | None
    bundle: Bundle
    """What each of its workers needs, on one node."""
    sizes: tuple[int, ...]
    """The numbers of workers that it can run with, ascending."""
    runtime: float | None = None
    """Seconds that it will take; None if nobody knows."""
    limit: bool = False
    """Whether ``runtime`` is the longest that it may take."""
    resizing: bool = False
    """Whether it has stopped to run on with another number of workers."""
    promised: bool = False
    """Whether the plan before promised it the room."""
    submitted: float = math.inf
    """When it was submitted, in seconds since 1970."""


@dataclass(frozen=True)
class Running:
    """A job that occupies room. Moments are in seconds since 1970."""

    id: str
    priority: int
    owner: str | None
    bundle: Bundle
    size: int
    """Workers."""
    started: float
    sizes: tuple[int, ...] = ()
    """The numbers of workers that it can run with, ascending; empty if it can run with no other."""
    preemptible: bool = False
    saved: float | None = None
    """When its state was last saved; None if it was not."""
    ends: float | None = None
    """When it is expected to end; None if nobody knows."""
    limit: bool = False
    """Whether ``ends`` is the latest moment at which it may."""
    resized: float | None = None
    """When its number of workers was last changed."""
    could_grow_since: float | None = None
    """Since when the room that it would grow into has been free."""
    stopping: bool = False
    """Whether it has been told to stop."""
    on: tuple[tuple[int, Bundle], ...] = ()
    """What it is known to occupy of which node; the rest is assumed to be where it fits."""


@dataclass(frozen=True)
class Space:
    """The nodes, and what of each is used by others than the platform's jobs."""

    nodes: tuple[Bundle, ...]
    taken: tuple[Bundle, ...] = ()
    """Of each node, in the same order; empty if nothing is."""


@dataclass(frozen=True)
class Usage:
    """What an owner has used."""

    amount: float = 0.0
    """GPU-seconds, and CPU-seconds of jobs without GPUs; what is long past counts less."""
    weight: float = 1.0


class Verdict(enum.Enum):
    """Why a queued job waits."""

    STARTS = "starts"
    ROOM = "waits for room"
    PROMISED = "is the next to start"
    BEHIND = "would delay the job that is promised the room"
    STOPPING = "waits for others to stop"
    OTHERS = "waits for what others than the platform use"
    TOO_LARGE = "does not fit on the empty cluster"


class Basis(enum.StrEnum):
    """What an estimate rests on."""

    PROGRESS = "progress"
    """How fast running jobs are: it may be sooner or later."""
    LIMIT = "limit"
    """The ``max_runtime`` of one job or more: it may be sooner."""

    @classmethod
    def of(cls, limit: bool) -> Basis:
        """The basis of a moment that is, or is not, the latest possible."""
        return cls.LIMIT if limit else cls.PROGRESS


@dataclass(frozen=True)
class Estimate:
    """When a job will start, if nothing is submitted that comes before it."""

    at: float
    basis: Basis


@dataclass(frozen=True)
class Start:
    """A job that starts now."""

    id: str
    size: int


@dataclass(frozen=True)
class Preemption:
    """A running job that stops for another."""

    id: str
    by: str
    """The job that takes its place."""


@dataclass(frozen=True)
class Resize:
    """A running job that continues with another number of workers."""

    id: str
    size: int
    by: str | None
    """The job that takes the room; None if the job grows."""


@dataclass(frozen=True)
class Place:
    """Where a job stands in the queue."""

    job: Queued
    position: int
    """1 for the first."""
    verdict: Verdict
    by: tuple[str, ...] = ()
    """The jobs that it waits for."""
    estimate: Estimate | None = None

    @property
    def reason(self) -> str:
        """Why it waits, in words for its user. Changes only when the verdict does."""
        needs = Needs(self.job.bundle, self.job.sizes[0])
        match self.verdict:
            case Verdict.BEHIND:
                return f"waits behind job {self.by[0]}, the next to get room"
            case Verdict.STOPPING:
                return f"waits until {_named(self.by)} stopped: it needs {needs}"
            case Verdict.OTHERS:
                return f"waits for room that others than the platform use: it needs {needs}"
            case _:
                return f"waits for room: it needs {needs}"


@dataclass(frozen=True)
class Plan:
    """What to do now."""

    starts: tuple[Start, ...]
    preemptions: tuple[Preemption, ...]
    resizes: tuple[Resize, ...]
    could_grow: frozenset[str]
    """Elastic jobs for which there is room to grow."""
    promised: str | None
    """The job that is promised the room, if one is."""
    _planner: _Planner

    @cached_property
    def places(self) -> list[Place]:
        """Where each queued job stands, those that start included, in order."""
        return self._planner.places()


def plan(
    queued: Iterable[Queued],
    running: Iterable[Running],
    space: Space,
    usage: Mapping[str | None, Usage],
    policy: Policy,
    now: float,
) -> Plan:
    """What to do now. The same arguments give the same plan.

    Args:
        queued: the jobs that may start.
        running: the jobs that occupy room, those that stop included.
        space: the nodes.
        usage: of each owner; one who is not named has used nothing, and has a weight of 1.
        policy: the deployment's.
        now: seconds since 1970.
    """
    planner = _Planner(sorted(running, key=lambda job: job.id), space, usage, policy, now)
    planner.run(list(queued))
    return planner.plan()


class _Room:
    """What is free of each node."""

    __slots__ = ("cpus", "gpus")

    def __init__(self, cpus: list[float], gpus: list[float]) -> None:
        self.cpus, self.gpus = cpus, gpus

    def copy(self) -> _Room:
        return _Room(self.cpus.copy(), self.gpus.copy())

    def take(self, spots: _Spots, sign: int = -1) -> None:
        for node, cpus, gpus in spots:
            self.cpus[node] += sign * cpus
            self.gpus[node] += sign * gpus

    def give(self, spots: _Spots) -> None:
        self.take(spots, 1)


_Spots = list[tuple[int, float, float]]
"""Nodes, and the CPUs and GPUs of each."""


def _place(rooms: Sequence[_Room], bundle: Bundle, count: int) -> _Spots | None:
    """Where ``count`` bundles fit in every one of the rooms; nodes with little left come first."""
    first, cpus, gpus = rooms[0], bundle.cpus, bundle.gpus
    nodes: Iterable[int] = range(len(first.cpus))
    for room in rooms:
        nodes = [n for n in nodes if room.cpus[n] >= cpus and room.gpus[n] >= gpus]
    fitting = []
    total = 0
    for node in nodes:
        times = count
        if count > 1:
            for room in rooms:
                if gpus:
                    times = min(times, int(room.gpus[node] // gpus))
                if cpus:
                    times = min(times, int(room.cpus[node] // cpus))
        fitting.append((first.gpus[node], first.cpus[node], node, times))
        total += times
    if total < count:
        return None
    fitting.sort()
    spots: _Spots = []
    for _, _, node, times in fitting:
        taken = min(times, count)
        spots.append((node, taken * bundle.cpus, taken * bundle.gpus))
        count -= taken
        if not count:
            break
    return spots


@dataclass
class _Held:
    """A running job, where it is, and the number of workers that it will have."""

    job: Running
    spots: _Spots
    target: int

    def freed(self, target: int) -> _Spots:
        """What it leaves when it shrinks from its target to another."""
        if target == 0 and self.target == self.job.size:
            return self.spots
        cpus = (self.target - target) * self.job.bundle.cpus
        gpus = (self.target - target) * self.job.bundle.gpus
        kept = self.target * self.job.bundle.cpus, self.target * self.job.bundle.gpus
        rest_cpus = max(0.0, sum(c for _, c, _ in self.spots) - kept[0])
        rest_gpus = max(0.0, sum(g for _, _, g in self.spots) - kept[1])
        freed: _Spots = []
        for node, has_cpus, has_gpus in reversed(self.spots):
            # What was freed before lies at the end.
            skip_cpus, skip_gpus = min(rest_cpus, has_cpus), min(rest_gpus, has_gpus)
            rest_cpus, rest_gpus = rest_cpus - skip_cpus, rest_gpus - skip_gpus
            now_cpus, now_gpus = min(cpus, has_cpus - skip_cpus), min(gpus, has_gpus - skip_gpus)
            cpus, gpus = cpus - now_cpus, gpus - now_gpus
            freed.append((node, now_cpus, now_gpus))
        return freed


class _Planner:
    def __init__(
        self,
        running: list[Running],
        space: Space,
        usage: Mapping[str | None, Usage],
        policy: Policy,
        now: float,
    ) -> None:
        self._usage, self._policy, self._now = usage, policy, now
        self._running = running
        taken = space.taken or (Bundle(0, 0),) * len(space.nodes)
        self._empty = _Room([n.cpus for n in space.nodes], [n.gpus for n in space.nodes])
        self._free = _Room(
            [max(0.0, n.cpus - t.cpus) for n, t in zip(space.nodes, taken, strict=True)],
            [max(0.0, n.gpus - t.gpus) for n, t in zip(space.nodes, taken, strict=True)],
        )
        self._held = self._placed(running)
        self._soon = self._free.copy()
        """What will be free when those that stop have stopped, less what is promised of it."""
        for held in self._held.values():
            if held.job.stopping:
                self._soon.give(held.spots)
        self._reserved_at = math.inf
        self._reserved_for: str | None = None
        self._extra: _Room | None = None
        """What the promised job leaves, when its time has come."""
        self._order: list[Queued] = []
        self._verdicts: dict[str, tuple[Verdict, tuple[str, ...]]] = {}
        self._starts: list[Start] = []
        self._preempted: dict[str, str] = {}
        self._resized: dict[str, Resize] = {}
        self._could_grow: set[str] = set()
        self._ever: dict[tuple[float, float, int], bool] = {}
        self._claims = 0
        self._claimed: list[_Held] = []
        """Jobs that wait for others to stop, as if they ran where these are."""
        self._disturbable = self._in_order_of_leaving()
        self._hopeless: dict[tuple[Bundle, int], int] = {}
        """By shape, the priority up to which nobody can be made to leave for it."""

    def run(self, queued: list[Queued]) -> None:
        self._order = self._ordered(queued)
        full: dict[tuple[float, float, tuple[int, ...], bool], Verdict] = {}
        for job in self._order:
            if not self._fits_ever(job):
                self._verdicts[job.id] = Verdict.TOO_LARGE, ()
                continue
            if self._reserved_for is not None and not self._policy.backfill:
                self._verdicts[job.id] = self._behind(Verdict.BEHIND)
                continue
            ends_before = self._ends_before_promise(job)
            shape = job.bundle.cpus, job.bundle.gpus, job.sizes, ends_before
            if self._reserved_for is not None and shape in full:
                # What is free only becomes less, once there is a promise.
                self._verdicts[job.id] = self._behind(full[shape])
                continue
            if self._start(job, ends_before):
                continue
            if not self._policy.backfill:
                self._reserved_for = job.id
                self._verdicts[job.id] = Verdict.PROMISED, ()
                continue
            if self._reserved_for is None:
                self._claim_or_reserve(job)
                continue
            fits = _place([self._free, self._soon], job.bundle, job.sizes[0]) is not None
            full[shape] = Verdict.BEHIND if fits else Verdict.ROOM
            self._verdicts[job.id] = self._behind(full[shape])
        if self._policy.elastic and (self._policy.backfill or self._reserved_for is None):
            self._grow()

    def plan(self) -> Plan:
        return Plan(
            starts=tuple(self._starts),
            preemptions=tuple(Preemption(job, by) for job, by in sorted(self._preempted.items())),
            resizes=tuple(self._resized[job] for job in sorted(self._resized)),
            could_grow=frozenset(self._could_grow),
            promised=self._reserved_for,
            _planner=self,
        )

    def places(self) -> list[Place]:
        estimates = self._estimates()
        return [
            Place(job, position, *self._verdicts[job.id], estimates.get(job.id))
            for position, job in enumerate(self._order, 1)
        ]

    # Order

    def _ordered(self, queued: list[Queued]) -> list[Queued]:
        if not (self._policy.backfill and self._policy.fair_share):
            return sorted(
                queued, key=lambda job: (-job.priority, not job.resizing, not job.promised, job.id)
            )
        by_age = sorted(queued, key=lambda job: (-job.priority, *self._precedence(job), job.id))
        used = self._used()
        ordered: list[Queued] = []
        start = 0
        while start < len(by_age):
            end = start
            while end < len(by_age) and by_age[end].priority == by_age[start].priority:
                end += 1
            ordered += self._shared(by_age[start:end], used)
            start = end
        return ordered

    def _precedence(self, job: Queued) -> tuple[bool, bool, bool]:
        """Sorts those first that do not wait for the turns of owners."""
        overdue = self._now - job.submitted > OVERDUE_SECONDS
        return not job.resizing, not job.promised, not overdue

    def _used(self) -> defaultdict[str | None, float]:
        """What each owner has used for their weight, running jobs counted as they are expected."""
        used: defaultdict[str | None, float] = defaultdict(float)
        for owner, usage in self._usage.items():
            used[owner] = usage.amount / usage.weight
        for job in self._running:
            rest = EXPECTED_SECONDS - (self._now - job.started)
            if rest > 0 and not job.stopping:
                used[job.owner] += rest * job.size * _rate(job.bundle) / self._weight(job.owner)
        return used

    def _weight(self, owner: str | None) -> float:
        usage = self._usage.get(owner)
        return usage.weight if usage else 1.0

    def _shared(self, jobs: list[Queued], used: defaultdict[str | None, float]) -> list[Queued]:
        """Jobs of one priority, in turn among their owners; adds to what these have used."""
        ordered: list[Queued] = []
        of_owner: dict[str | None, deque[Queued]] = {}
        for job in jobs:
            if all(self._precedence(job)):
                of_owner.setdefault(job.owner, deque()).append(job)
            else:
                ordered.append(job)
        turns = [(used[owner], own[0].id, owner) for owner, own in of_owner.items()]
        heapq.heapify(turns)
        while turns:
            before, _, owner = turns[0]
            own = of_owner[owner]
            job = own.popleft()
            ordered.append(job)
            seconds = EXPECTED_SECONDS if job.runtime is None else job.runtime
            seconds = min(seconds, EXPECTED_SECONDS)
            amount = seconds * job.sizes[0] * _rate(job.bundle) / self._weight(owner)
            used[owner] = before + amount
            if own:
                heapq.heapreplace(turns, (used[owner], own[0].id, owner))
            else:
                heapq.heappop(turns)
        return ordered

    # Start

    def _fits_ever(self, job: Queued) -> bool:
        shape = job.bundle.cpus, job.bundle.gpus, job.sizes[0]
        ever = self._ever.get(shape)
        if ever is None:
            ever = _place([self._empty], job.bundle, job.sizes[0]) is not None
            self._ever[shape] = ever
        return ever

    def _ends_before_promise(self, job: Queued) -> bool:
        if self._reserved_for is None or job.runtime is None or math.isinf(self._reserved_at):
            return False
        return self._now + job.runtime <= self._reserved_at

    def _start(self, job: Queued, ends_before: bool) -> bool:
        rooms = [self._free, self._soon]
        if self._extra is not None and not ends_before:
            rooms.append(self._extra)
        for size in reversed(job.sizes):
            spots = _place(rooms, job.bundle, size)
            if spots is not None:
                break
        else:
            return False
        for room in rooms:
            room.take(spots)
        self._starts.append(Start(job.id, size))
        self._verdicts[job.id] = Verdict.STARTS, ()
        self._held[job.id] = self._as_running(job, spots, size)
        return True

    def _as_running(self, job: Queued, spots: _Spots, size: int) -> _Held:
        ends = None if job.runtime is None else self._now + job.runtime
        started = Running(
            job.id, job.priority, job.owner, job.bundle, size, self._now, ends=ends, limit=job.limit
        )
        return _Held(started, spots, size)

    def _behind(self, verdict: Verdict) -> tuple[Verdict, tuple[str, ...]]:
        assert self._reserved_for is not None
        return verdict, ((self._reserved_for,) if verdict is Verdict.BEHIND else ())

    # Preemption

    def _claim_or_reserve(self, job: Queued) -> None:
        spots = _place([self._soon], job.bundle, job.sizes[0])
        if spots is not None:
            stopping = [held.job.id for held in self._held.values() if self._stops(held)]
            self._claim(job, spots, stopping)
        elif not self._make_room(job):
            self._reserve(job)

    def _claim(self, job: Queued, spots: _Spots, by: Iterable[str]) -> None:
        self._soon.take(spots)
        self._claimed.append(self._as_running(job, spots, job.sizes[0]))
        self._verdicts[job.id] = Verdict.STOPPING, tuple(sorted(by))

    def _stops(self, held: _Held) -> bool:
        return held.job.stopping or held.target < held.job.size

    def _make_room(self, job: Queued) -> bool:
        """Make others leave or shrink so that the job can start; False if that is of no use."""
        shape = job.bundle, job.sizes[0]
        if not self._policy.preemption or self._claims == CLAIMS:
            return False
        if job.priority <= self._hopeless.get(shape, -math.inf):
            return False
        lower = bisect_left(self._disturbable, job.priority, key=lambda held: held.job.priority)
        victims = [held for held in self._disturbable[:lower] if held.target]
        steps = self._steps(victims)
        if not steps or not self._enough(job, steps):
            self._hopeless[shape] = job.priority
            return False
        # The fewest of the steps, in their order; more of them never hinder.
        least = bisect_left(range(1, len(steps)), True, key=lambda n: self._enough(job, steps[:n]))
        targets: dict[str, int] = dict(steps[: least + 1])
        self._spare(job, targets)
        for victim, target in targets.items():
            held = self._held[victim]
            self._soon.give(held.freed(target))
            held.target = target
            if target:
                self._resized[victim] = Resize(victim, target, job.id)
            else:
                self._resized.pop(victim, None)
                self._preempted[victim] = job.id
        spots = _place([self._soon], *shape)
        assert spots is not None
        self._claims += 1
        self._claim(job, spots, [held.job.id for held in self._held.values() if self._stops(held)])
        return True

    def _in_order_of_leaving(self) -> list[_Held]:
        """Those that may be disturbed, the first to go first."""
        victims = [
            held
            for held in self._held.values()
            if held.job.preemptible
            and not held.job.stopping
            and self._now - held.job.started >= self._policy.preempt_after
        ]
        return sorted(
            victims,
            key=lambda held: (
                held.job.priority,
                self._lost(held.job),
                -held.job.started,
                held.job.id,
            ),
        )

    def _lost(self, job: Running) -> float:
        """The work since the last checkpoint."""
        since = job.started if job.saved is None else max(job.saved, job.started)
        return max(0.0, self._now - since) * job.size * _rate(job.bundle)

    def _steps(self, victims: list[_Held]) -> list[tuple[str, int]]:
        """What can be done to make room, in order: first jobs shrink, then they stop."""
        shrinks = [
            (held.job.id, held.job.sizes[0])
            for held in victims
            if self._policy.elastic
            and held.job.sizes
            and held.job.sizes[0] < held.target
            and self._may_resize(held.job)
        ]
        return shrinks + [(held.job.id, 0) for held in victims]

    def _may_resize(self, job: Running) -> bool:
        return job.resized is None or self._now - job.resized >= self._policy.resize_after

    def _enough(self, job: Queued, steps: Iterable[tuple[str, int]]) -> bool:
        room = self._soon.copy()
        for victim, target in dict(steps).items():
            room.give(self._held[victim].freed(target))
        return _place([room], job.bundle, job.sizes[0]) is not None

    def _spare(self, job: Queued, targets: dict[str, int]) -> None:
        """Undo what is not needed, the last that was done first."""
        room = self._soon.copy()
        for victim, target in targets.items():
            room.give(self._held[victim].freed(target))
        for victim in reversed(list(targets)):
            held, least = self._held[victim], targets[victim]
            gentler = [held.target]
            if self._policy.elastic and self._may_resize(held.job):
                gentler += [s for s in reversed(held.job.sizes) if least < s < held.target]
            room.take(held.freed(least))
            for target in [*gentler, least]:
                freed = held.freed(target)
                room.give(freed)
                if target == least or _place([room], job.bundle, job.sizes[0]) is not None:
                    targets[victim] = target
                    break
                room.take(freed)
            if targets[victim] == held.target:
                del targets[victim]

    # Reservation

    def _reserve(self, job: Queued) -> None:
        stay = [held for held in self._held.values() if not held.job.stopping and held.target]
        stay += self._claimed
        known = sorted(
            (held for held in stay if held.job.ends is not None),
            key=lambda held: (held.job.ends, held.job.id),
        )
        unknown = [held for held in stay if held.job.ends is None]

        def left_by(leaving: Iterable[_Held]) -> _Room:
            room = self._soon.copy()
            for held in leaving:
                room.give(held.freed(0))
            return room

        def fits(leaving: Iterable[_Held]) -> bool:
            return _place([left_by(leaving)], job.bundle, job.sizes[0]) is not None

        if fits(known):
            count = bisect_left(range(len(known)), True, key=lambda n: fits(known[:n]))
            leaving = known[:count]
            ends = leaving[-1].job.ends if leaving else self._now
            assert ends is not None
            at = max(ends, self._now)
        elif fits(known + unknown):
            leaving, at = known + unknown, math.inf
        else:
            # Not even all of the platform's jobs leave enough: nothing is kept free for it.
            self._verdicts[job.id] = Verdict.OTHERS, ()
            return
        self._extra = left_by(leaving)
        spots = _place([self._extra], job.bundle, job.sizes[0])
        assert spots is not None
        self._extra.take(spots)
        self._reserved_at, self._reserved_for = at, job.id
        self._verdicts[job.id] = Verdict.PROMISED, ()

    # Growth

    def _grow(self) -> None:
        rooms = [self._free, self._soon]
        if self._extra is not None:
            rooms.append(self._extra)
        for job in sorted(self._running, key=lambda job: (-job.priority, job.id)):
            held = self._held[job.id]
            larger = [size for size in job.sizes if size > job.size]
            if not larger or job.stopping or held.target != job.size or not self._may_resize(job):
                continue
            for size in reversed(larger):
                spots = _place(rooms, job.bundle, size - job.size)
                if spots is None:
                    continue
                for room in rooms:
                    room.take(spots)
                self._could_grow.add(job.id)
                since = job.could_grow_since
                if since is not None and self._now - since >= self._policy.grow_after:
                    self._resized[job.id] = Resize(job.id, size, None)
                break

    # Where running jobs are

    def _placed(self, running: list[Running]) -> dict[str, _Held]:
        """Each job's spots, taken from what is free: known ones first, then the largest."""
        held: dict[str, _Held] = {}
        rest: list[tuple[Running, int]] = []
        for job in running:
            nodes = range(len(self._free.cpus))
            spots = [(node, b.cpus, b.gpus) for node, b in job.on if node in nodes]
            self._free.take(spots)
            held[job.id] = _Held(job, spots, job.size)
            cpus = sum(c for _, c, _ in spots)
            gpus = sum(g for _, _, g in spots)
            known = gpus / job.bundle.gpus if job.bundle.gpus else cpus / (job.bundle.cpus or 1)
            if known < job.size:
                rest.append((job, job.size - int(known)))
        rest.sort(key=lambda each: (-each[0].bundle.gpus, -each[0].bundle.cpus, each[0].id))
        for job, count in rest:
            found = _place([self._free], job.bundle, count) or self._drained(job.bundle, count)
            self._free.take(found)
            held[job.id].spots += found
        return held

    def _drained(self, bundle: Bundle, count: int) -> _Spots:
        """As much as the workers occupy, from whichever nodes have it: they fit nowhere."""
        cpus, gpus = count * bundle.cpus, count * bundle.gpus
        spots: _Spots = []
        for node, (has_cpus, has_gpus) in enumerate(
            zip(self._free.cpus, self._free.gpus, strict=True)
        ):
            taken = min(cpus, max(0.0, has_cpus)), min(gpus, max(0.0, has_gpus))
            spots.append((node, *taken))
            cpus, gpus = cpus - taken[0], gpus - taken[1]
        return spots

    # Estimates

    def _estimates(self) -> dict[str, Estimate]:
        """When the first jobs will start: each when it fits, and none before those ahead of it."""
        room = self._free.copy()
        ends: list[tuple[float, bool, str, _Spots]] = []
        for held in self._held.values():
            runs, target = held.job, 0 if held.job.stopping else held.target
            if self._stops(held):
                left = _Held(runs, held.spots, runs.size).freed(target)
                ends.append((self._now + STOPPING_SECONDS, False, runs.id, left))
            if target and runs.ends is not None:
                ends.append((max(runs.ends, self._now), runs.limit, runs.id, held.freed(0)))
        heapq.heapify(ends)
        estimates: dict[str, Estimate] = {}
        at, limit = self._now, False
        waiting = [
            job
            for job in self._order[: ESTIMATED + len(self._starts)]
            if self._verdicts[job.id][0] not in (Verdict.STARTS, Verdict.TOO_LARGE, Verdict.OTHERS)
        ]
        for job in waiting[:ESTIMATED]:
            spots = _place([room], job.bundle, job.sizes[0])
            while spots is None and ends:
                end, by_limit, _, leaving = heapq.heappop(ends)
                at, limit = max(at, end), limit or by_limit
                room.give(leaving)
                if _may_hold(room, job):
                    spots = _place([room], job.bundle, job.sizes[0])
            if spots is None:
                break
            estimates[job.id] = Estimate(at, Basis.of(limit))
            room.take(spots)
            if job.runtime is not None:
                heapq.heappush(ends, (at + job.runtime, job.limit, job.id, spots))
        return estimates


def used_between(start: float, end: float, now: float, half_life: float) -> float:
    """The seconds from ``start`` to ``end``, each counted half for every half-life since then.

    The integral of ``2 ** -((now - t) / half_life)`` over t.
    """
    decay = math.log(2) / half_life
    return (math.exp(-decay * (now - end)) - math.exp(-decay * (now - start))) / decay


def _rate(bundle: Bundle) -> float:
    """What a worker uses in a second: its GPUs; its CPUs if it has none."""
    return bundle.gpus or bundle.cpus


def _may_hold(room: _Room, job: Queued) -> bool:
    """Whether the sums are enough: most rooms are refused by them, at little cost."""
    count, bundle = job.sizes[0], job.bundle
    return sum(room.gpus) >= count * bundle.gpus and sum(room.cpus) >= count * bundle.cpus


def _named(jobs: Sequence[str]) -> str:
    if len(jobs) == 1:
        return f"job {jobs[0]} has"
    text = ", ".join(jobs[:3])
    more = f" and {len(jobs) - 3} more" if len(jobs) > 3 else ""
    return f"jobs {text}{more} have"
