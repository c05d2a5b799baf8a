"""What the queue's policies do to waiting, to utilisation and to users, and what a plan costs.

``python -m tests.benchmarks.queue_policies`` plays traces of jobs through ``plan``, the function
that the dispatcher calls, against a simulated cluster of 8 nodes with 8 GPUs and 64 CPUs each,
event by event. ``queue_traces.py`` says where the jobs come from. A worker has one GPU and 4 CPUs.

What is simulated follows the platform: a job that is to make room, or to change its size, stops
within ``STOP`` seconds with its exact step saved, and needs ``RESTART`` seconds until it computes
again. A few do not stop in time: they lose what they did since they last saved. A job that has run
for ``PROGRESS_AFTER`` says when it will end, wrong by up to a fifth; before, only its
``max_runtime`` is known, if it has one. The steps of an elastic job are as fast as it has GPUs, but
those beyond the number that its user asked for add less. With the policies that are not elastic,
each job runs with the number that its user asked for.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from tests.benchmarks.queue_traces import (
    DAY,
    GPUS,
    HOUR,
    Submitted,
    flood,
    published,
    storms,
    whole_cluster,
)
from vicreg_platform.dispatch.plan import (
    Plan,
    Policy,
    Queued,
    Running,
    Space,
    Usage,
    plan,
    used_between,
)
from vicreg_platform.needs import Bundle

STRICT = Policy(backfill=False, fair_share=False, preemption=False, elastic=False)
BACKFILL = replace(STRICT, backfill=True)
FAIR = replace(BACKFILL, fair_share=True)
PREEMPTING = replace(FAIR, preemption=True)
EVERYTHING = replace(PREEMPTING, elastic=True)
POLICIES = {
    "strict": STRICT,
    "backfill": BACKFILL,
    "+ fair share": FAIR,
    "+ preemption": PREEMPTING,
    "+ elastic": EVERYTHING,
}

NODE = Bundle(64, 8)
SPACE = Space((NODE,) * (GPUS // 8))
WORKER = Bundle(4, 1)
STOP, RESTART = 20.0, 30.0
KILLED = 0.01
"""The share of stops that take too long: the job is killed."""
SAVE_EVERY = 600.0
PROGRESS_AFTER = 300.0
NOISE = 0.2
BEYOND = 0.95
"""What a GPU beyond those asked for adds."""
HALF_LIFE = DAY
"""Of what a user has used."""
LOOK_EVERY = 300.0
"""Seconds after which a queue is looked at, if nothing happens before."""
SHORT = 600.0
"""Slowdown is bounded: a shorter job counts as this long."""
BIN = 6 * HOUR
"""Of the picture of utilisation."""
ROUNDS = 7
"""Of the measurement of costs; medians are printed."""


class Job:
    """A job in the simulation."""

    def __init__(self, submitted: Submitted, elastic: bool, error: float) -> None:
        self.submitted = submitted
        self.sizes = submitted.sizes if elastic else ()
        self.error = error
        """The factor by which it misjudges the time that it still needs."""
        self.left = submitted.runtime * submitted.gpus
        """GPU-seconds of work, when it last started or stopped."""
        self.worked = 0.0
        """Seconds, when it last started or stopped."""
        self.queued_at = submitted.at
        self.waited = 0.0
        self.finished = math.inf
        # Of the current attempt.
        self.attempt = 0
        self.size = 0
        self.on: tuple[tuple[int, Bundle], ...] = ()
        self.started = self.works_from = 0.0
        self.stopping = self.resizing = False
        self.resized: float | None = None
        self.could_grow_since: float | None = None

    @property
    def rate(self) -> float:
        """GPU-seconds of work in a second."""
        asked = self.submitted.gpus
        return min(self.size, asked) + BEYOND * max(0, self.size - asked)

    @property
    def ends(self) -> float:
        """When it ends if it is left alone."""
        return self.works_from + self.left / self.rate

    def saved(self, now: float) -> float:
        """When it last saved; it has the state with which it started."""
        periods = max(0.0, now - self.works_from) // SAVE_EVERY
        return self.works_from + periods * SAVE_EVERY

    def count(self, now: float) -> None:
        """Count what the attempt, which stops now, has done."""
        seconds = max(0.0, now - self.works_from)
        self.left -= seconds * self.rate
        self.worked += seconds

    def as_queued(self) -> Queued:
        submitted = self.submitted
        runtime = submitted.max_runtime
        if self.worked >= PROGRESS_AFTER:
            runtime = self.left / submitted.gpus * self.error
        return Queued(
            id=submitted.id,
            priority=submitted.priority,
            owner=submitted.user,
            bundle=WORKER,
            sizes=self.sizes or (submitted.gpus,),
            runtime=runtime,
            limit=runtime is not None and self.worked < PROGRESS_AFTER,
            resizing=self.resizing,
            submitted=submitted.at,
        )

    def as_running(self, now: float) -> Running:
        submitted = self.submitted
        ends, limit = None, False
        if self.worked + now - self.works_from >= PROGRESS_AFTER:
            ends = now + (self.ends - now) * self.error
        if submitted.max_runtime is not None:
            latest = self.started + submitted.max_runtime
            if ends is None or latest < ends:
                ends, limit = latest, True
        return Running(
            id=submitted.id,
            priority=submitted.priority,
            owner=submitted.user,
            bundle=WORKER,
            size=self.size,
            started=self.started,
            sizes=self.sizes,
            preemptible=submitted.preemptible,
            saved=self.saved(now),
            ends=ends,
            limit=limit,
            resized=self.resized,
            could_grow_since=self.could_grow_since,
            stopping=self.stopping,
            on=self.on,
        )


@dataclass
class Outcome:
    """What a policy made of a trace."""

    jobs: list[Job]
    demanded: float = 0.0
    """Seconds in which the jobs that were there asked for all GPUs, or more."""
    useful: float = 0.0
    """GPU-seconds of work in these."""
    by_bin: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    """GPU-seconds of work."""
    preemptions: int = 0
    resizes: int = 0
    overhead: float = 0.0
    """GPU-seconds in which jobs stopped or started again, and what the killed ones did twice."""
    killed: int = 0
    most_lost: tuple[float, float] = (0.0, 0.0)
    """The most seconds of work that a stop has cost, and the seconds since that job had saved."""
    lost_more: int = 0
    """Jobs that lost more than they did since they had saved."""
    plans: int = 0
    plan_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def utilisation(self) -> float:
        """Of the GPUs, while there was demand for all of them."""
        return self.useful / (GPUS * self.demanded) if self.demanded else 1.0

    def waits(self) -> list[float]:
        """Seconds in the queue, those after a preemption included."""
        return [job.waited for job in self.jobs]

    def slowdowns(self) -> dict[str, float]:
        """The mean of each user's jobs."""
        of_user: defaultdict[str, list[float]] = defaultdict(list)
        for job in self.jobs:
            taken = job.finished - job.submitted.at
            slowdown = max(1.0, taken / max(SHORT, job.submitted.runtime))
            of_user[job.submitted.user].append(slowdown)
        return {user: statistics.fmean(each) for user, each in of_user.items()}


class Simulation:
    """Plays jobs through a policy."""

    def __init__(self, submitted: Sequence[Submitted], policy: Policy) -> None:
        self._policy = policy
        self._random = random.Random(0)
        self._jobs = {
            job.id: Job(job, policy.elastic, self._random.uniform(1 - NOISE, 1 + NOISE))
            for job in submitted
        }
        self._outcome = Outcome(list(self._jobs.values()))
        self._events: list[tuple[float, str, str, int]] = [
            (job.at, "arrives", job.id, 0) for job in submitted
        ]
        heapq.heapify(self._events)
        self._look_at = math.inf
        self._now = 0.0
        self._queued: dict[str, Queued] = {}
        self._running: dict[str, Job] = {}
        self._free = [int(node.gpus) for node in SPACE.nodes]
        self._asked = 0
        """GPUs, by the jobs that are there."""
        self._rate = 0.0
        """Work in a second."""
        self._using: Counter[str] = Counter()
        """GPUs, by user."""
        self._used: defaultdict[str | None, float] = defaultdict(float)
        self._used_until = 0.0
        self._promised: str | None = None
        """The job that the plan before promised the room."""
        self._blocked: int | None = None
        """The priority of the job that holds up all others, with the strict policy."""

    def run(self) -> Outcome:
        began = time.perf_counter()
        while self._events or self._look_at < math.inf:
            upcoming = self._events[0][0] if self._events else math.inf
            self._pass(min(upcoming, self._look_at))
            while self._events and self._events[0][0] == self._now:
                _, kind, id_, attempt = heapq.heappop(self._events)
                job = self._jobs[id_]
                if attempt == job.attempt:
                    getattr(self, f"_{kind}")(job)
            if self._may_change():
                self._carry_out(self._plan())
            self._look_at = self._next_look()
        self._outcome.seconds = time.perf_counter() - began
        return self._outcome

    # What happens

    def _pass(self, now: float) -> None:
        """Time passes."""
        seconds = now - self._now
        if self._asked >= GPUS:
            self._outcome.demanded += seconds
            self._outcome.useful += seconds * self._rate
        self._outcome.by_bin[int(self._now / BIN)] += seconds * self._rate
        self._now = now

    def _arrives(self, job: Job) -> None:
        self._asked += job.submitted.gpus
        self._queued[job.submitted.id] = job.as_queued()
        if self._blocked is not None and job.submitted.priority > self._blocked:
            self._blocked = None

    def _works(self, job: Job) -> None:
        """It computes, for the first time or again."""
        self._rate += job.rate

    def _ends(self, job: Job) -> None:
        self._rate -= job.rate
        self._asked -= job.submitted.gpus
        job.finished = self._now
        self._leave(job)

    def _stopped(self, job: Job) -> None:
        self._leave(job)
        job.stopping, job.queued_at = False, self._now
        self._queued[job.submitted.id] = job.as_queued()

    def _leave(self, job: Job) -> None:
        self._count_usage()
        self._using[job.submitted.user] -= job.size
        for node, bundle in job.on:
            self._free[node] += int(bundle.gpus)
        del self._running[job.submitted.id]
        job.attempt += 1
        self._blocked = None

    # What the plan wants

    def _may_change(self) -> bool:
        """Whether a plan could be other than to do nothing."""
        if not any(self._free):
            for job in self._running.values():
                job.could_grow_since = None
            return self._policy.preemption and self._may_preempt()
        if not self._queued:
            return any(
                job.sizes and job.sizes[-1] > job.size and not job.stopping
                for job in self._running.values()
            )
        return self._blocked is None

    def _may_preempt(self) -> bool:
        highest = max((job.priority for job in self._queued.values()), default=-math.inf)
        return any(
            job.submitted.preemptible
            and not job.stopping
            and job.submitted.priority < highest
            and self._now - job.started >= self._policy.preempt_after
            for job in self._running.values()
        )

    def _plan(self) -> Plan:
        usage: dict[str | None, Usage] = {}
        if self._policy.fair_share:
            self._count_usage()
            usage = {user: Usage(amount) for user, amount in self._used.items()}
        running = [job.as_running(self._now) for job in self._running.values()]
        queued: Iterable[Queued] = self._queued.values()
        if not self._policy.backfill:
            # Those behind them cannot start: each that does takes a GPU.
            queued = heapq.nsmallest(
                GPUS + 1, queued, key=lambda job: (-job.priority, not job.resizing, job.id)
            )
        queued = [
            replace(job, promised=True) if job.id == self._promised else job for job in queued
        ]
        began = time.perf_counter()
        made = plan(queued, running, SPACE, usage, self._policy, self._now)
        self._outcome.plan_seconds += time.perf_counter() - began
        self._promised = made.promised
        self._outcome.plans += 1
        return made

    def _count_usage(self) -> None:
        since, self._used_until = self._used_until, self._now
        if since == self._now:
            return
        kept = 2 ** -((self._now - since) / HALF_LIFE)
        seconds = used_between(since, self._now, self._now, HALF_LIFE)
        for user, gpus in self._using.items():
            self._used[user] = self._used[user] * kept + gpus * seconds

    def _carry_out(self, made: Plan) -> None:
        for start in made.starts:
            self._start(self._jobs[start.id], start.size)
        for preemption in made.preemptions:
            self._outcome.preemptions += 1
            self._stop(self._jobs[preemption.id], resizing=False)
        for resize in made.resizes:
            self._outcome.resizes += 1
            self._stop(self._jobs[resize.id], resizing=True)
        for id_, job in self._running.items():
            if id_ not in made.could_grow:
                job.could_grow_since = None
            elif job.could_grow_since is None:
                job.could_grow_since = self._now
        if not self._policy.backfill and self._queued:
            self._blocked = max(job.priority for job in self._queued.values())

    def _start(self, job: Job, size: int) -> None:
        self._count_usage()
        del self._queued[job.submitted.id]
        self._running[job.submitted.id] = job
        job.waited += self._now - job.queued_at
        job.size, job.started = size, self._now
        again = job.attempt > 0
        job.works_from = self._now + (RESTART if again else 0)
        if job.resizing:
            job.resized, job.resizing = self._now, False
        self._outcome.overhead += size * (RESTART if again else 0)
        self._using[job.submitted.user] += size
        job.on = self._place(size)
        heapq.heappush(self._events, (job.works_from, "works", job.submitted.id, job.attempt))
        heapq.heappush(self._events, (job.ends, "ends", job.submitted.id, job.attempt))

    def _place(self, count: int) -> tuple[tuple[int, Bundle], ...]:
        """Take GPUs, from the nodes with the fewest left."""
        on = []
        for node in sorted(range(len(self._free)), key=self._free.__getitem__):
            taken = min(count, self._free[node])
            if taken:
                self._free[node] -= taken
                count -= taken
                on.append((node, Bundle(WORKER.cpus * taken, WORKER.gpus * taken)))
        assert count == 0, "the plan started more than fits"
        return tuple(on)

    def _stop(self, job: Job, resizing: bool) -> None:
        outcome, now = self._outcome, self._now
        if now >= job.works_from:
            self._rate -= job.rate
        unsaved = max(0.0, now - job.saved(now))
        before = job.left
        job.count(now)
        if self._random.random() < KILLED:
            outcome.killed += 1
            job.left += unsaved * job.rate
        lost = max(0.0, now - job.works_from) - (before - job.left) / job.rate
        outcome.most_lost = max(outcome.most_lost, (lost, unsaved))
        outcome.lost_more += lost > unsaved + 1e-3
        outcome.overhead += lost * job.rate + STOP * job.size
        if self._asked >= GPUS:
            outcome.useful -= lost * job.rate
        job.stopping, job.resizing, job.could_grow_since = True, resizing, None
        job.attempt += 1
        heapq.heappush(self._events, (now + STOP, "stopped", job.submitted.id, job.attempt))

    def _next_look(self) -> float:
        """When a plan may be another although nothing has happened."""
        looks = [self._now + LOOK_EVERY] if self._queued else []
        for job in self._running.values():
            if job.could_grow_since is not None:
                looks.append(job.could_grow_since + self._policy.grow_after)
            if job.sizes and job.resized is not None:
                looks.append(job.resized + self._policy.resize_after)
        return min((look for look in looks if look > self._now), default=math.inf)


# Tables


def compare(submitted: Sequence[Submitted]) -> dict[str, Outcome]:
    """What each policy makes of a trace."""
    return {name: Simulation(submitted, policy).run() for name, policy in POLICIES.items()}


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print("| " + " | ".join(heads) + " |")
    print("|---" * len(heads) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def duration(seconds: float) -> str:
    """Such as ``40 s``, ``12 min``, ``3.4 h`` and ``2.1 d``."""
    for size, unit in ((DAY, "d"), (HOUR, "h"), (60.0, "min")):
        if seconds >= 2 * size or (unit == "min" and seconds >= size):
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def print_trace(submitted: Sequence[Submitted]) -> None:
    """Which jobs there are."""
    work: Counter[int] = Counter()
    of_user: Counter[str] = Counter()
    for job in submitted:
        work[job.gpus] += round(job.gpus * job.runtime)
        of_user[job.user] += round(job.gpus * job.runtime)
    rows = []
    for gpus, amount in sorted(work.items()):
        times = sorted(job.runtime for job in submitted if job.gpus == gpus)
        rows.append(
            [
                str(gpus),
                f"{len(times) / len(submitted):.2%}",
                f"{amount / work.total():.0%}",
                duration(statistics.median(times)),
                duration(statistics.fmean(times)),
                duration(times[-1]),
            ]
        )
    print_table(["GPUs", "jobs", "GPU time", "median run", "mean run", "longest run"], rows)
    busiest = sum(amount for _, amount in of_user.most_common(math.ceil(len(of_user) / 20)))
    share = busiest / of_user.total()
    print(f"The busiest 5 % of {len(of_user)} users have {share:.0%} of the GPU time.\n")


def print_outcomes(outcomes: dict[str, Outcome]) -> None:
    rows, costs = [], []
    for name, outcome in outcomes.items():
        waits = outcome.waits()
        slowdowns = outcome.slowdowns().values()
        rows.append(
            [
                name,
                duration(statistics.fmean(waits)),
                duration(float(np.percentile(waits, 95))),
                duration(max(waits)),
                f"{outcome.utilisation:.1%}",
                f"{statistics.fmean(slowdowns):.1f}",
                f"{max(slowdowns):.1f}",
            ]
        )
        work = sum(job.submitted.runtime * job.submitted.gpus for job in outcome.jobs)
        lost, unsaved = outcome.most_lost
        costs.append(
            [
                name,
                str(outcome.preemptions),
                str(outcome.resizes),
                f"{outcome.overhead / HOUR:.0f} GPU-hours ({outcome.overhead / work:.2%})",
                f"{outcome.killed}: {duration(lost)} of {duration(unsaved)} unsaved",
                f"{outcome.plans} × {1e3 * outcome.plan_seconds / outcome.plans:.2f} ms",
                duration(outcome.seconds),
            ]
        )
    heads = ["policy", "mean wait", "95th percentile", "longest wait", "utilisation"]
    print_table([*heads, "slowdown, mean of users", "of the worst user"], rows)
    heads = ["policy", "preempted", "resized", "lost to stops", "killed, and the most lost"]
    print_table([*heads, "plans", "simulated in"], costs)


def print_aims(outcomes: dict[str, Outcome]) -> None:
    """Whether what the queue was built for is reached, by all policies together."""
    strict, ours = outcomes["strict"], outcomes["+ elastic"]
    ratio = statistics.fmean(ours.waits()) / max(1.0, statistics.fmean(strict.waits()))
    points = 100 * (ours.utilisation - strict.utilisation)
    longest, before = duration(max(ours.waits())), duration(max(strict.waits()))
    for aim, found, met in (
        ("the mean wait is at most a third of strict's", f"{ratio:.2f}", ratio <= 1 / 3),
        (
            "utilisation is 10 points higher, or 92 %",
            f"{points:+.1f} points, {ours.utilisation:.1%}",
            points >= 10 or ours.utilisation >= 0.92,
        ),
        (
            "no job waits for ever",
            f"the longest {longest}, with strict {before}",
            all(job.finished < math.inf for job in ours.jobs),
        ),
        (
            "no job loses more than it did since it had saved",
            f"{ours.lost_more} of {ours.preemptions + ours.resizes}",
            not ours.lost_more,
        ),
    ):
        print(f"- {aim}: {found}. {'Met' if met else 'NOT met'}.")
    print()


def print_adversarial() -> None:
    """What the policies were built against: how one user's jobs fare, and how the others'."""
    for title, trace, user in (
        ("One user submits many jobs at once.", flood(), "flooding"),
        ("One job needs all GPUs.", whole_cluster(), "large"),
        ("Storms of higher priority.", storms(), "storm"),
    ):
        rows = []
        for policy, outcome in compare(trace).items():
            theirs = [job.waited for job in outcome.jobs if job.submitted.user == user]
            others = [job.waited for job in outcome.jobs if job.submitted.user != user]
            rows.append(
                [
                    policy,
                    duration(statistics.fmean(theirs)),
                    duration(max(theirs)),
                    duration(statistics.fmean(others)),
                    duration(max(others)),
                    f"{outcome.utilisation:.1%}",
                    f"{outcome.overhead / HOUR:.1f} GPU-hours",
                ]
            )
        print(f"{title}\n")
        heads = ["policy", f"*{user}*: mean wait", "longest", "others: mean wait", "longest"]
        print_table([*heads, "utilisation", "lost to stops"], rows)


# Pictures: transparent, and in greys and colours that show on white and on black.

INK = "#888888"
COLOURS = dict(zip(POLICIES, ("#d1495b", "#edae49", "#66a182", "#2e86ab", "#a06cd5"), strict=True))


def draw(outcomes: dict[str, Outcome], days: float, folder: Path) -> None:
    axes = _axes("a job waits longer than … hours", "share of jobs")
    for name, outcome in outcomes.items():
        waits = np.sort(np.maximum(np.array(outcome.waits()) / HOUR, 1e-3))
        share = 1 - np.arange(len(waits)) / len(waits)
        axes.plot(waits, share, color=COLOURS[name], label=name)
    axes.set_xscale("log")
    axes.set_xlim(left=1 / 60)
    _save(axes, folder / "queue-wait.png")

    axes = _axes("day", "GPUs that do useful work")
    bins = range(int(days * DAY / BIN))
    for name in ("strict", "backfill", "+ elastic"):
        busy = [outcomes[name].by_bin[n] / (GPUS * BIN) for n in bins]
        days_ = [(n + 0.5) * BIN / DAY for n in bins]
        axes.plot(days_, busy, color=COLOURS[name], label=name)
    axes.set_ylim(bottom=0)
    _save(axes, folder / "queue-utilisation.png")


def _axes(x: str, y: str) -> Any:
    axes = Figure(figsize=(8, 3.5), layout="constrained").add_subplot()
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.tick_params(colors=INK, which="both")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(color=INK, alpha=0.25)
    for side, spine in axes.spines.items():
        spine.set_color(INK)
        spine.set_visible(side in ("left", "bottom"))
    return axes


def _save(axes: Any, path: Path) -> None:
    axes.legend(frameon=False, labelcolor=INK)
    axes.figure.savefig(path, dpi=150, transparent=True)


# Costs

COST_NODES, COST_QUEUED, COST_RUNNING = 128, 10_000, 1000


def print_costs() -> None:
    """What a plan costs; ``dispatch_round.py`` measures the round around it."""
    space = Space((NODE,) * COST_NODES)
    queued, running = _crowd()
    whole = replace(queued[0], id="", priority=9, sizes=(COST_NODES * int(NODE.gpus),))
    victims = [replace(job, preemptible=True) for job in running]
    rows = []
    for title, waiting, occupying in (
        ("a full cluster", queued, running),
        ("all must stop for one job", [whole, *queued], victims),
    ):
        seconds: list[tuple[float, float]] = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            made = plan(waiting, occupying, space, {}, Policy(), 0.0)
            planned = time.perf_counter()
            assert len(made.places) == len(waiting)
            seconds.append((planned - began, time.perf_counter() - planned))
        cells = [f"{1e3 * statistics.median(each):.0f} ms" for each in zip(*seconds, strict=True)]
        rows.append([title, *cells, str(len(made.starts)), str(len(made.preemptions))])
    print(
        f"{COST_QUEUED:,} queued and {COST_RUNNING:,} running jobs on {COST_NODES} nodes, "
        f"median of {ROUNDS}:\n"
    )
    print_table(["", "plan", "places", "start", "stop"], rows)


def _crowd() -> tuple[list[Queued], list[Running]]:
    """Jobs of all kinds, of fifty users, and a cluster that they fill but for a few GPUs."""
    chance = random.Random(0)
    jobs = published(1, COST_QUEUED)
    queued = [
        replace(Job(job, elastic=True, error=1.0).as_queued(), owner=f"user {chance.randrange(50)}")
        for job in jobs
    ]
    running = []
    for number in range(COST_RUNNING):
        node = number * COST_NODES // COST_RUNNING
        running.append(
            Running(
                id=f"running {number:04}",
                priority=chance.choice([-1, 0, 0, 0, 1]),
                owner=f"user {chance.randrange(50)}",
                bundle=WORKER,
                size=1,
                started=-chance.uniform(HOUR, DAY),
                preemptible=chance.random() < 0.6,
                ends=chance.choice([None, chance.uniform(0, DAY)]),
                on=((node, WORKER),),
            )
        )
    return queued, running


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--days", type=float, default=60.0)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--cost-only", action="store_true", help="only what a plan costs")
    parser.add_argument("--out", type=Path, help="a folder for pictures")
    options = parser.parse_args(arguments)
    print_costs()
    if options.cost_only:
        return
    submitted = published(options.days, options.jobs)
    print_trace(submitted)
    outcomes = compare(submitted)
    print_outcomes(outcomes)
    print_aims(outcomes)
    if options.out:
        draw(outcomes, options.days, options.out)
    print_adversarial()


if __name__ == "__main__":
    main()
