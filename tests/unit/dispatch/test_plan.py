"""The plan, against exhaustive search on small clusters, and against answers known beforehand."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from vicreg_platform.dispatch.plan import (
    OVERDUE_SECONDS,
    Basis,
    Estimate,
    Place,
    Plan,
    Policy,
    Preemption,
    Queued,
    Resize,
    Running,
    Space,
    Start,
    Usage,
    Verdict,
    plan,
    used_between,
)
from vicreg_platform.needs import Bundle

NOW = 1_000_000.0
GPU = Bundle(1, 1)
CPU = Bundle(1, 0)
STRICT = Policy(backfill=False, fair_share=False, preemption=False, elastic=False)
EASY = Policy(fair_share=False, preemption=False, elastic=False)
PREEMPTING = replace(EASY, preemption=True)
ELASTIC = replace(EASY, elastic=True)

# The same examples each time: what fails is somebody's change. A busy machine is no fault.
thorough = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
quick = settings(thorough, max_examples=50)


@dataclass(frozen=True)
class Situation:
    """What a plan is made from."""

    queued: list[Queued]
    running: list[Running]
    space: Space
    usage: Mapping[str | None, Usage]
    policy: Policy

    def plan(self) -> Plan:
        return plan(self.queued, self.running, self.space, self.usage, self.policy, NOW)


# The checker: an exhaustive search for a placement, which shares nothing with the plan.

Free = tuple[tuple[float, float], ...]
"""The CPUs and GPUs that are free of each node."""
Item = tuple[Bundle, int, tuple[bool, ...]]
"""Workers that stay where they are put, and at which of several moments they are there."""


def placements(moments: tuple[Free, ...], item: Item, node: int = 0) -> Iterator[tuple[Free, ...]]:
    """What is left at each moment, for every way to place the workers."""
    bundle, count, there = item
    if count == 0:
        yield moments
    elif node < len(moments[0]):
        for here in range(count + 1):
            left = []
            for free, present in zip(moments, there, strict=True):
                cpus, gpus = free[node]
                if present:
                    cpus, gpus = cpus - here * bundle.cpus, gpus - here * bundle.gpus
                if cpus < 0 or gpus < 0:
                    return
                left.append((*free[:node], (cpus, gpus), *free[node + 1 :]))
            yield from placements(tuple(left), (bundle, count - here, there), node + 1)


@cache
def fit(moments: tuple[Free, ...], items: tuple[Item, ...]) -> bool:
    """Whether all can be placed, each at one place for all of its moments."""
    if not items:
        return True
    return any(fit(left, items[1:]) for left in placements(moments, items[0]))


def free_beside(space: Space, running: Sequence[Running]) -> Free:
    """What others and these jobs, which are known to be where they are, leave."""
    free = [[node.cpus, node.gpus] for node in space.nodes]
    for node, taken in enumerate(space.taken):
        free[node][0] -= taken.cpus
        free[node][1] -= taken.gpus
    for job in running:
        for node, bundle in job.on:
            free[node][0] -= bundle.cpus
            free[node][1] -= bundle.gpus
    return tuple((cpus, gpus) for cpus, gpus in free)


def times(bundle: Bundle, count: int) -> Bundle:
    return Bundle(bundle.cpus * count, bundle.gpus * count)


# What hypothesis makes up. All numbers are small, so that jobs compete.

BUNDLES = [Bundle(1, 0), Bundle(3, 0), Bundle(1, 1), Bundle(2, 1), Bundle(2, 2)]
OWNERS = ["ann", "bob", None]


before = st.sampled_from([0.0, 60.0, 599.0, 600.0, 5000.0]).map(lambda seconds: NOW - seconds)
sizes = st.sets(st.integers(1, 5), min_size=1, max_size=3).map(lambda found: tuple(sorted(found)))


@st.composite
def queues(draw: st.DrawFn, least: int, most: int) -> list[Queued]:
    return [
        Queued(
            id=f"q{number}",
            priority=draw(st.integers(0, 2)),
            owner=draw(st.sampled_from(OWNERS)),
            bundle=draw(st.sampled_from(BUNDLES)),
            sizes=draw(sizes),
            runtime=draw(st.sampled_from([None, 50.0, 100.0, 500.0, 5000.0])),
            limit=draw(st.booleans()),
            resizing=draw(st.sampled_from([False, False, True])),
        )
        for number in range(draw(st.integers(least, most)))
    ]


@st.composite
def runners(draw: st.DrawFn, node_count: int, least: int, most: int) -> list[Running]:
    """Running jobs, each with its nodes."""
    running: list[Running] = []
    for number in range(draw(st.integers(least, most))):
        bundle = draw(st.sampled_from(BUNDLES))
        on = Counter(draw(st.lists(st.integers(0, node_count - 1), min_size=1, max_size=4)))
        others = draw(st.one_of(st.just(()), sizes))
        running.append(
            Running(
                id=f"r{number}",
                priority=draw(st.integers(0, 2)),
                owner=draw(st.sampled_from(OWNERS)),
                bundle=bundle,
                size=on.total(),
                started=draw(before),
                sizes=tuple(sorted({on.total(), *others})) if others else (),
                preemptible=draw(st.sampled_from([True, True, False])),
                saved=draw(st.one_of(st.none(), before)),
                ends=draw(st.sampled_from([None, NOW - 5, NOW + 50, NOW + 200, NOW + 1000])),
                limit=draw(st.booleans()),
                resized=draw(st.one_of(st.none(), before)),
                could_grow_since=draw(st.sampled_from([None, NOW - 299, NOW - 300])),
                stopping=draw(st.sampled_from([False, False, False, True])),
                on=tuple((node, times(bundle, count)) for node, count in sorted(on.items())),
            )
        )
    return running


@st.composite
def spaces(draw: st.DrawFn, node_count: int, running: list[Running]) -> Space:
    """Nodes that hold the running jobs, and little more."""
    nodes = []
    for node in range(node_count):
        used = [bundle for job in running for at, bundle in job.on if at == node]
        cpus, gpus = sum(bundle.cpus for bundle in used), sum(bundle.gpus for bundle in used)
        nodes.append((cpus + draw(st.integers(0, 3)), gpus + draw(st.integers(0, 2))))
    taken = draw(
        st.lists(
            st.builds(Bundle, st.integers(0, 2), st.integers(0, 1)),
            min_size=node_count,
            max_size=node_count,
        )
    )
    if not draw(st.booleans()):
        return Space(tuple(Bundle(*node) for node in nodes))
    return Space(
        tuple(
            Bundle(cpus + others.cpus, gpus + others.gpus)
            for (cpus, gpus), others in zip(nodes, taken, strict=True)
        ),
        tuple(taken),
    )


policies = st.builds(
    Policy,
    backfill=st.sampled_from([True, True, True, False]),
    fair_share=st.booleans(),
    preemption=st.booleans(),
    elastic=st.booleans(),
)


@st.composite
def situations(
    draw: st.DrawFn, nodes: int = 3, queued: tuple[int, int] = (1, 5), running: int = 4
) -> Situation:
    node_count = draw(st.integers(1, nodes))
    runs = draw(runners(node_count, running // 2, running))
    usage = st.builds(Usage, st.sampled_from([0.0, 1000.0, 9000.0]), st.sampled_from([1.0, 2.0]))
    return Situation(
        draw(queues(*queued)),
        runs,
        draw(spaces(node_count, runs)),
        draw(st.dictionaries(st.sampled_from(OWNERS), usage)),
        draw(policies),
    )


def contested(found: Situation) -> Situation:
    """The same, with a queue that comes before most of what runs."""
    return replace(
        found,
        queued=[replace(job, priority=job.priority + 1) for job in found.queued],
        running=[
            replace(job, preemptible=True, started=min(job.started, NOW - 600))
            for job in found.running
        ],
        policy=replace(found.policy, backfill=True, preemption=True),
    )


@st.composite
def blocked(draw: st.DrawFn) -> Situation:
    """A job that does not fit yet comes first."""
    found = draw(situations())
    bundle = draw(st.sampled_from([CPU, GPU]))
    free = free_beside(found.space, found.running)
    fitting = sum(min(cpus, gpus) if bundle.gpus else cpus for cpus, gpus in free)
    workers = int(fitting) + draw(st.integers(1, 4))
    return replace(
        found,
        queued=[Queued("first", 3, None, bundle, (workers,)), *found.queued],
        policy=replace(found.policy, backfill=True, preemption=False),
    )


def content(made: Plan) -> tuple[object, ...]:
    return made.starts, made.preemptions, made.resizes, made.could_grow, made.places


# Properties


@thorough
@given(situations(nodes=4))
def test_what_runs_and_what_starts_fits_on_the_nodes(found: Situation) -> None:
    """Those that are to stop still occupy their room, and those that grow take more."""
    made = found.plan()
    queued = {job.id: job for job in found.queued}
    running = {job.id: job for job in found.running}
    items = [(queued[start.id].bundle, start.size) for start in made.starts]
    items += [
        (running[resize.id].bundle, resize.size - running[resize.id].size)
        for resize in made.resizes
        if resize.by is None
    ]
    free = free_beside(found.space, found.running)
    assert fit((free,), tuple((bundle, count, (True,)) for bundle, count in items))


@quick
@given(situations(nodes=4))
def test_jobs_of_which_nobody_knows_where_they_run_count_in_full(found: Situation) -> None:
    hidden = [replace(job, on=()) for job in found.running]
    queued = {job.id: job for job in found.queued}
    starts = replace(found, running=hidden).plan().starts
    free = free_beside(found.space, found.running)
    bundles = [times(queued[start.id].bundle, start.size) for start in starts]
    assert sum(bundle.cpus for bundle in bundles) <= sum(cpus for cpus, _ in free)
    assert sum(bundle.gpus for bundle in bundles) <= sum(gpus for _, gpus in free)


@thorough
@given(st.one_of(situations(), situations().map(contested)))
def test_who_waits_for_others_to_stop_fits_when_they_have(found: Situation) -> None:
    made = found.plan()
    stopping = {job.id for job in found.running if job.stopping}
    stopping |= {each.id for each in made.preemptions} | {each.id for each in made.resizes}
    queued = {job.id: job for job in found.queued}
    running = {job.id: job for job in found.running}
    both, later = (True, True), (False, True)
    items = [(queued[start.id].bundle, start.size, both) for start in made.starts]
    items += [(running[each.id].bundle, each.size, later) for each in made.resizes]
    items += [
        (place.job.bundle, place.job.sizes[0], later)
        for place in made.places
        if place.verdict is Verdict.STOPPING
    ]
    stay = [job for job in found.running if job.id not in stopping]
    moments = free_beside(found.space, found.running), free_beside(found.space, stay)
    assert fit(moments, tuple(items))


@thorough
@given(st.one_of(blocked(), situations().map(contested)))
def test_no_start_and_no_growth_delays_the_job_that_is_promised_the_room(found: Situation) -> None:
    """The earliest time at which it can start is no later with them than without.

    A job that does not say when it ends leaves after all that do.
    """
    made = found.plan()
    order = [place.job.id for place in made.places]
    heads = [place.job for place in made.places if place.verdict is Verdict.PROMISED]
    assume(heads)
    (head,) = heads
    earlier = order[: order.index(head.id)]
    claims = [place for place in made.places if place.verdict is Verdict.STOPPING]
    ahead = [start for start in made.starts if start.id in earlier]
    behind = [start for start in made.starts if start.id not in earlier]
    # The plan chooses where those ahead of it go: with one node, there is no choice.
    assume(len(found.space.nodes) == 1 or not (ahead or claims))

    queued = {job.id: job for job in found.queued}
    running = {job.id: job for job in found.running}
    leave = {job.id for job in found.running if job.stopping}
    leave |= {each.id for each in made.preemptions} | {each.id for each in made.resizes}
    shrunk = [each for each in made.resizes if each.by is not None]
    grown = [each for each in made.resizes if each.by is None]

    def end_of(job: Queued) -> float:
        return LAST if job.runtime is None else NOW + job.runtime

    def end_of_running(job: Running) -> float:
        return LAST if job.ends is None else max(NOW, job.ends)

    def can_start(at: float, extra: bool) -> bool:
        def item(bundle: Bundle, count: int, now: bool, end: float) -> Item:
            return bundle, count, (now, True, end > at)

        items: list[Item] = [(head.bundle, head.sizes[0], (False, False, True))]
        for start in ahead + (behind if extra else []):
            job = queued[start.id]
            # Who starts behind the promised job and does not say when it ends never leaves.
            end = math.inf if job.runtime is None and start in behind else end_of(job)
            items.append(item(job.bundle, start.size, True, end))
        items += [
            item(place.job.bundle, place.job.sizes[0], False, end_of(place.job)) for place in claims
        ]
        items += [
            item(running[each.id].bundle, each.size, False, end_of_running(running[each.id]))
            for each in shrunk + (grown if extra else [])
        ]
        stay = [job for job in found.running if job.id not in leave]
        stay += [running[each.id] for each in grown if not extra]
        last = [job for job in stay if end_of_running(job) > at]
        jobs = found.running, stay, last
        return fit(tuple(free_beside(found.space, each) for each in jobs), tuple(items))

    ends = {NOW, LAST, *map(end_of_running, found.running)}
    ends |= {end_of(queued[start.id]) for start in ahead}
    ends |= {end_of(place.job) for place in claims}
    promised = min(at for at in ends if can_start(at, extra=False))
    assert can_start(promised, extra=True)


LAST = 1e12
"""When the jobs leave that do not say when they end."""


@quick
@given(st.one_of(situations(), situations().map(contested)))
def test_only_lower_priority_and_only_after_a_while_is_disturbed(found: Situation) -> None:
    made = found.plan()
    queued = {job.id: job for job in found.queued}
    running = {job.id: job for job in found.running}
    disturbed: list[Preemption | Resize] = list(made.preemptions)
    disturbed += [each for each in made.resizes if each.by is not None]
    assert len({each.id for each in disturbed}) == len(disturbed)
    for each in disturbed:
        assert each.by is not None
        job = running[each.id]
        assert job.priority < queued[each.by].priority
        assert job.preemptible
        assert not job.stopping
        assert NOW - job.started >= found.policy.preempt_after
        if isinstance(each, Resize):
            assert each.size < job.size
    if not found.policy.preemption:
        assert not disturbed
    if not found.policy.elastic:
        assert not made.resizes


@thorough
@given(situations(nodes=1, queued=(1, 1)).map(contested))
def test_no_more_are_disturbed_than_needed(found: Situation) -> None:
    made = found.plan()
    left = {each.id: 0 for each in made.preemptions}
    left |= {each.id: each.size for each in made.resizes if each.by is not None}
    assume(left)
    (job,) = found.queued

    def starts(spared: str | None) -> bool:
        stay = [each for each in found.running if not each.stopping]
        sizes_ = {each.id: each.size for each in stay} | left
        if spared is not None:
            del sizes_[spared]
            sizes_[spared] = next(each.size for each in stay if each.id == spared)
        free = free_beside(found.space, [])
        items = [(each.bundle, sizes_[each.id], (True,)) for each in stay]
        return fit((free,), (*items, (job.bundle, job.sizes[0], (True,))))

    assert starts(spared=None)
    assert not any(starts(spared) for spared in left)


@quick
@given(situations())
def test_a_job_grows_only_into_room_that_has_been_free_for_a_while(found: Situation) -> None:
    made = found.plan()
    running = {job.id: job for job in found.running}
    for each in made.resizes:
        job = running[each.id]
        assert job.resized is None or NOW - job.resized >= found.policy.resize_after
        assert not job.stopping
        if each.by is None:
            assert each.size > job.size
            assert job.could_grow_since is not None
            assert NOW - job.could_grow_since >= found.policy.grow_after
            assert job.id in made.could_grow


@quick
@given(situations())
def test_every_size_is_one_that_the_job_can_run_with(found: Situation) -> None:
    made = found.plan()
    queued = {job.id: job for job in found.queued}
    running = {job.id: job for job in found.running}
    assert all(start.size in queued[start.id].sizes for start in made.starts)
    assert all(each.size in running[each.id].sizes for each in made.resizes)


@quick
@given(situations())
def test_the_first_job_starts_if_it_fits_as_large_as_it_fits(found: Situation) -> None:
    places = found.plan().places
    first = next((p.job for p in places if p.verdict is not Verdict.TOO_LARGE), None)
    assume(first)
    assert first is not None
    free = free_beside(found.space, found.running)
    fitting = [size for size in first.sizes if fit((free,), ((first.bundle, size, (True,)),))]
    starts = {start.id: start.size for start in found.plan().starts}
    assert starts.get(first.id) == max(fitting, default=None)


@quick
@given(situations(), st.data())
def test_the_same_jobs_in_any_order_give_the_same_plan(
    found: Situation, data: st.DataObject
) -> None:
    shuffled = replace(
        found,
        queued=data.draw(st.permutations(found.queued)),
        running=data.draw(st.permutations(found.running)),
    )
    assert content(found.plan()) == content(found.plan()) == content(shuffled.plan())


@quick
@given(situations())
def test_every_queued_job_has_a_place_and_a_reason(found: Situation) -> None:
    made = found.plan()
    assert sorted(place.job.id for place in made.places) == [job.id for job in found.queued]
    assert [place.position for place in made.places] == list(range(1, len(found.queued) + 1))
    priorities = [place.job.priority for place in made.places]
    assert priorities == sorted(priorities, reverse=True)
    starts = {start.id for start in made.starts}
    for place in made.places:
        assert place.reason
        assert (place.verdict is Verdict.STARTS) == (place.job.id in starts)
        assert place.estimate is None or place.estimate.at >= NOW
        whole = Space(found.space.nodes)
        worker = place.job.bundle, place.job.sizes[0], (True,)
        ever = fit((free_beside(whole, []),), (worker,))
        assert (place.verdict is Verdict.TOO_LARGE) == (not ever)
        if place.verdict is Verdict.OTHERS:
            assert not fit((free_beside(found.space, []),), (worker,))


@quick
@given(situations())
def test_the_strict_policy_starts_nothing_behind_the_first_that_does_not_fit(
    found: Situation,
) -> None:
    made = replace(found, policy=replace(found.policy, backfill=False)).plan()
    may_ever = [place for place in made.places if place.verdict is not Verdict.TOO_LARGE]
    started = [place.verdict is Verdict.STARTS for place in may_ever]
    assert started == sorted(started, reverse=True)
    assert [place.job for place in made.places] == sorted(
        found.queued, key=lambda job: (-job.priority, not job.resizing, job.id)
    )
    assert not made.preemptions


# Examples


def nodes(count: int, cpus: float, gpus: float) -> Space:
    return Space((Bundle(cpus, gpus),) * count)


def queued(
    id_: str,
    workers: int | tuple[int, ...] = 1,
    bundle: Bundle = GPU,
    owner: str | None = None,
    priority: int = 0,
    runtime: float | None = None,
    limit: bool = False,
) -> Queued:
    sizes_ = (workers,) if isinstance(workers, int) else workers
    return Queued(id_, priority, owner, bundle, sizes_, runtime, limit)


def running(
    id_: str,
    workers: int = 1,
    ends: float | None = None,
    bundle: Bundle = GPU,
    priority: int = 0,
    sizes: tuple[int, ...] = (),
    preemptible: bool = True,
) -> Running:
    """One that has run for an hour, and says in how many seconds it ends."""
    return Running(
        id_,
        priority,
        owner=None,
        bundle=bundle,
        size=workers,
        started=NOW - 3600,
        sizes=sizes,
        preemptible=preemptible,
        ends=None if ends is None else NOW + ends,
    )


def started(made: Plan) -> list[str]:
    return [start.id for start in made.starts]


def places(made: Plan) -> dict[str, Place]:
    return {place.job.id: place for place in made.places}


def test_owners_start_jobs_in_the_ratio_of_their_weights() -> None:
    owners = ("ann", "bob", "cy")
    jobs = [queued(f"{n:03}-{owner}", owner=owner) for owner in owners for n in range(100)]
    made = plan(
        jobs, [], nodes(5, 8, 8), {"cy": Usage(weight=2.0)}, replace(EASY, fair_share=True), NOW
    )
    assert Counter(id_.partition("-")[2] for id_ in started(made)) == {
        "ann": 10, "bob": 10, "cy": 20
    }  # fmt: skip


def test_an_owners_many_jobs_do_not_hold_back_anothers_first() -> None:
    jobs = [queued(f"a{n:03}", owner="ann") for n in range(300)] + [queued("b", owner="bob")]
    made = plan(jobs, [], nodes(1, 4, 4), {}, replace(EASY, fair_share=True), NOW)
    assert started(made) == ["a000", "b", "a001", "a002"]
    assert places(made)["b"].position == 2


def test_who_has_used_more_comes_later() -> None:
    jobs = [queued("1", owner="ann"), queued("2", owner="bob"), queued("3", owner="cy", priority=1)]
    usage: dict[str | None, Usage] = {
        "ann": Usage(1000.0),
        "bob": Usage(3000.0, weight=4.0),
        "cy": Usage(1e9),
    }
    made = plan(jobs, [], nodes(1, 8, 0), usage, replace(EASY, fair_share=True), NOW)
    assert [place.job.id for place in made.places] == ["3", "2", "1"]


def test_a_resized_job_keeps_its_place_among_equals() -> None:
    jobs = [queued("1"), replace(queued("2", owner="ann"), resizing=True), queued("3", priority=1)]
    for policy in (Policy(), STRICT):
        made = plan(jobs, [], nodes(1, 8, 0), {"ann": Usage(1e9)}, policy, NOW)
        assert [place.job.id for place in made.places] == ["3", "2", "1"]


def test_a_job_of_three_days_goes_before_the_turns_of_owners() -> None:
    """Whoever has used most still gets somewhere, and the oldest of theirs first."""
    used: dict[str | None, Usage] = {"ann": Usage(1e9)}
    old = [replace(queued(id_, owner="ann"), submitted=NOW - OVERDUE_SECONDS - 1) for id_ in "12"]
    young = replace(queued("3", owner="ann"), submitted=NOW - OVERDUE_SECONDS + 1)
    bobs, urgent = queued("4", owner="bob"), queued("5", owner="bob", priority=1)
    jobs = [bobs, young, *old, urgent]
    made = plan(jobs, [], nodes(1, 8, 0), used, Policy(), NOW)
    assert [place.job.id for place in made.places] == ["5", "1", "2", "4", "3"]


def test_a_promise_is_kept_among_equals() -> None:
    """Else owners who have used less, and come and go, could have the first wait for ever."""
    policy = replace(EASY, fair_share=True)
    large = queued("1", workers=2, owner="ann")
    used: dict[str | None, Usage] = {"ann": Usage(1e9)}
    made = plan([large], [running("r", ends=100.0)], nodes(1, 8, 2), used, policy, NOW)
    assert made.promised == "1"
    later = queued("2", workers=2, owner="bob")
    others = [running("r", ends=100.0)]
    made = plan([later, large], others, nodes(1, 8, 2), used, policy, NOW)
    assert made.promised == "2"
    made = plan([later, replace(large, promised=True)], others, nodes(1, 8, 2), used, policy, NOW)
    assert [place.job.id for place in made.places] == ["1", "2"]
    assert made.promised == "1"
    urgent = queued("3", workers=2, priority=1)
    made = plan([urgent, replace(large, promised=True)], others, nodes(1, 8, 2), used, policy, NOW)
    assert made.promised == "3"


@pytest.mark.parametrize(
    ("behind", "starts"),
    [
        (queued("c", runtime=100.0, limit=True), True),
        (queued("c", runtime=101.0, limit=True), False),
        (queued("c"), False),
        (queued("c", bundle=CPU), True),
        (queued("c", bundle=Bundle(7, 0)), False),
    ],
)
def test_what_passes_the_job_that_is_promised_the_room(behind: Queued, starts: bool) -> None:
    """It waits for four GPUs with one CPU each; one is free for 100 seconds, and 5 of 8 CPUs."""
    made = plan(
        [queued("b", 4), behind], [running("a", 3, ends=100.0)], nodes(1, 8, 4), {}, EASY, NOW
    )
    assert started(made) == (["c"] if starts else [])
    assert places(made)["b"].verdict is Verdict.PROMISED
    if not starts:
        assert places(made)["c"].verdict in (Verdict.BEHIND, Verdict.ROOM)


def test_a_job_that_would_delay_another_says_so() -> None:
    made = plan(
        [queued("b", 4), queued("c")], [running("a", 3, ends=100.0)], nodes(1, 8, 4), {}, EASY, NOW
    )
    assert places(made)["b"].reason == "waits for room: it needs 4 × 1 CPU and 1 GPU"
    assert places(made)["c"].reason == "waits behind job b, the next to get room"


def test_nothing_is_given_away_that_a_job_needs_when_nobody_knows_the_end() -> None:
    jobs = [queued("b", 3), queued("c", runtime=1.0, limit=True), queued("d", runtime=1.0)]
    made = plan(jobs, [running("a", 2)], nodes(1, 8, 4), {}, EASY, NOW)
    assert started(made) == ["c"]
    made = plan(jobs, [running("a", 2)], nodes(1, 8, 3), {}, EASY, NOW)
    assert started(made) == []


def test_with_the_strict_policy_a_short_job_does_not_pass() -> None:
    jobs = [queued("b", 4), queued("c", runtime=1.0, limit=True), queued("d", bundle=CPU)]
    made = plan(jobs, [running("a", 3, ends=100.0)], nodes(1, 8, 4), {}, STRICT, NOW)
    assert started(made) == []


def test_a_worker_does_not_spread_over_nodes() -> None:
    occupied = [
        replace(running("a", bundle=Bundle(3, 1)), on=((0, Bundle(3, 1)),)),
        replace(running("b", bundle=Bundle(3, 1)), on=((1, Bundle(3, 1)),)),
    ]
    space = nodes(2, 4, 2)
    made = plan([queued("c", bundle=Bundle(2, 1))], occupied, space, {}, EASY, NOW)
    assert started(made) == []
    made = plan([queued("c", 2, bundle=Bundle(1, 1))], occupied, space, {}, EASY, NOW)
    assert started(made) == ["c"]


def test_workers_spread_over_nodes() -> None:
    made = plan([queued("a", 8, Bundle(4, 1))], [], nodes(8, 4, 1), {}, EASY, NOW)
    assert made.starts == (Start("a", 8),)


def test_room_that_is_used_nobody_knows_where_is_not_given_away() -> None:
    """Three workers of ``a`` have 9 of the 10 CPUs, and ``b`` the last; nodes are not known."""
    space = Space((Bundle(3, 0), Bundle(3, 1), Bundle(4, 1)))
    those = [running("a", 3, bundle=Bundle(3, 0)), running("b", bundle=GPU)]
    assert started(plan([queued("c", bundle=CPU)], those, space, {}, EASY, NOW)) == []


def test_what_others_use_is_not_given_away() -> None:
    space = Space((Bundle(8, 4),), (Bundle(0, 3),))
    made = plan([queued("a", 2), queued("b")], [], space, {}, EASY, NOW)
    assert places(made)["a"].verdict is Verdict.OTHERS
    assert started(made) == ["b"]


def test_a_job_too_large_for_the_cluster_holds_up_nobody() -> None:
    for policy in (STRICT, Policy()):
        made = plan([queued("a", 5), queued("b")], [], nodes(1, 8, 4), {}, policy, NOW)
        assert places(made)["a"].verdict is Verdict.TOO_LARGE
        assert started(made) == ["b"]


def test_an_elastic_job_starts_with_as_many_workers_as_fit() -> None:
    jobs = [queued("a", (1, 2, 4, 8)), queued("b", (1, 2))]
    made = plan(jobs, [], nodes(1, 8, 5), {}, EASY, NOW)
    assert made.starts == (Start("a", 4), Start("b", 1))


def test_the_lowest_priority_stops_first_then_who_loses_least_then_the_youngest() -> None:
    jobs = [queued("q", priority=9)]
    lowest = replace(running("lowest"), saved=NOW - 3000)
    saved = replace(running("saved", priority=1), saved=NOW - 10)
    young = replace(running("young", priority=1), started=NOW - 700)
    old = replace(running("old", priority=1), started=NOW - 700, id="old")
    for those, first in (
        ([lowest, saved, young], "lowest"),
        ([saved, young, old], "saved"),
        ([young, replace(old, started=NOW - 800)], "young"),
    ):
        made = plan(jobs, those, nodes(1, 8, len(those)), {}, PREEMPTING, NOW)
        assert made.preemptions == (Preemption(first, "q"),)
        assert started(made) == []
        assert places(made)["q"].verdict is Verdict.STOPPING
        assert places(made)["q"].reason == (
            f"waits until job {first} has stopped: it needs 1 CPU and 1 GPU"
        )


def test_a_job_larger_than_needed_spares_the_smaller_ones() -> None:
    those = [running("a", 1), running("b", 1), replace(running("c", 6), saved=NOW - 3600)]
    made = plan([queued("q", 6, priority=1)], those, nodes(1, 8, 8), {}, PREEMPTING, NOW)
    assert made.preemptions == (Preemption("c", "q"),)


def test_jobs_shrink_before_any_stops_and_no_further_than_needed() -> None:
    elastic = running("a", 4, sizes=(1, 2, 4))
    rigid = replace(running("b", 4), saved=NOW)
    policy = replace(PREEMPTING, elastic=True)
    for needs, resizes, preemptions in (
        (2, (Resize("a", 2, "q"),), ()),
        (3, (Resize("a", 1, "q"),), ()),
        (4, (), (Preemption("b", "q"),)),
        (5, (Resize("a", 2, "q"),), (Preemption("b", "q"),)),
        (8, (), (Preemption("a", "q"), Preemption("b", "q"))),
    ):
        made = plan(
            [queued("q", needs, priority=1)], [elastic, rigid], nodes(1, 8, 8), {}, policy, NOW
        )
        assert (made.resizes, made.preemptions) == (resizes, preemptions)


def test_nobody_is_disturbed_if_it_is_of_no_use() -> None:
    those = [running("a", 2, preemptible=False), running("b", 2)]
    made = plan([queued("q", 3, priority=1)], those, nodes(1, 8, 4), {}, Policy(), NOW)
    assert made.preemptions == ()
    assert places(made)["q"].verdict is Verdict.PROMISED


def test_the_room_of_jobs_that_stop_is_promised_once() -> None:
    """Two jobs of four GPUs wait for eight that are stopping: nobody else has to stop."""
    leaving = replace(running("a", 8), stopping=True)
    jobs = [queued("q", 4, priority=1), queued("r", 4, priority=1), queued("s", 4, priority=1)]
    made = plan(jobs, [leaving, running("b", 4)], nodes(2, 8, 6), {}, PREEMPTING, NOW)
    assert made.preemptions == (Preemption("b", "s"),)
    verdicts = {place.job.id: place.verdict for place in made.places}
    assert verdicts == dict.fromkeys("qrs", Verdict.STOPPING)


def test_a_job_behind_one_that_waits_for_others_to_stop_is_promised_its_room() -> None:
    """Four of eight GPUs are promised to a job of unknown length, then all eight to another."""
    leaving = replace(running("a", 8), stopping=True)
    jobs = [queued("q", 4), queued("r", 8), queued("s", 4)]
    verdicts = places(plan(jobs, [leaving], nodes(1, 8, 8), {}, EASY, NOW))
    assert verdicts["q"].verdict is Verdict.STOPPING
    assert verdicts["r"].verdict is Verdict.PROMISED
    assert verdicts["s"].verdict in (Verdict.BEHIND, Verdict.ROOM)


def test_a_job_grows_when_the_room_has_been_free_for_long_enough() -> None:
    job = running("a", 2, sizes=(1, 2, 4, 8))
    space = nodes(1, 8, 6)
    made = plan([], [job], space, {}, ELASTIC, NOW)
    assert (made.could_grow, made.resizes) == (frozenset("a"), ())
    made = plan([], [replace(job, could_grow_since=NOW - 299)], space, {}, ELASTIC, NOW)
    assert (made.could_grow, made.resizes) == (frozenset("a"), ())
    free = replace(job, could_grow_since=NOW - 300)
    made = plan([], [free], space, {}, ELASTIC, NOW)
    assert made.resizes == (Resize("a", 4, None),)
    made = plan([], [replace(free, resized=NOW - 599)], space, {}, ELASTIC, NOW)
    assert (made.could_grow, made.resizes) == (frozenset(), ())
    made = plan([], [replace(free, resized=NOW - 600)], space, {}, ELASTIC, NOW)
    assert made.resizes == (Resize("a", 4, None),)


def test_a_job_does_not_grow_into_what_another_waits_for() -> None:
    grown = replace(running("a", 2, sizes=(2, 4)), could_grow_since=NOW - 300)
    those = [grown, running("b", 2, ends=60.0)]
    made = plan([queued("q", 4)], those, nodes(1, 8, 6), {}, ELASTIC, NOW)
    assert (made.could_grow, made.resizes) == (frozenset(), ())


def test_with_the_strict_policy_no_job_grows_while_another_waits() -> None:
    job = replace(running("a", 2, sizes=(2, 4)), could_grow_since=NOW - 300)
    policy = replace(STRICT, elastic=True)
    made = plan([], [job], nodes(1, 8, 4), {}, policy, NOW)
    assert made.resizes == (Resize("a", 4, None),)
    made = plan([queued("q", 3)], [job], nodes(1, 8, 4), {}, policy, NOW)
    assert (made.could_grow, made.resizes) == (frozenset(), ())


def test_the_start_is_estimated_by_the_end_of_the_job_that_it_waits_for() -> None:
    jobs = [queued("q"), queued("r", 2)]
    progress = [running("a", 1, ends=100.0), running("b", 1, ends=250.0)]
    made = places(plan(jobs[:1], progress, nodes(1, 8, 2), {}, EASY, NOW))
    assert made["q"].estimate == Estimate(NOW + 100, Basis.PROGRESS)
    made = places(plan(jobs[1:], progress, nodes(1, 8, 2), {}, EASY, NOW))
    assert made["r"].estimate == Estimate(NOW + 250, Basis.PROGRESS)
    limited = [progress[0], replace(progress[1], limit=True)]
    made = places(plan(jobs[:1], limited, nodes(1, 8, 2), {}, EASY, NOW))
    assert made["q"].estimate == Estimate(NOW + 100, Basis.PROGRESS)
    made = places(plan(jobs[1:], limited, nodes(1, 8, 2), {}, EASY, NOW))
    assert made["r"].estimate == Estimate(NOW + 250, Basis.LIMIT)


def test_an_estimate_counts_the_jobs_ahead_in_the_queue() -> None:
    jobs = [queued("q", 2, runtime=60.0), queued("r", 2)]
    made = places(plan(jobs, [running("a", 2, ends=100.0)], nodes(1, 8, 2), {}, EASY, NOW))
    assert made["q"].estimate == Estimate(NOW + 100, Basis.PROGRESS)
    assert made["r"].estimate == Estimate(NOW + 160, Basis.PROGRESS)


def test_nobody_knows_the_start_behind_a_job_of_unknown_length() -> None:
    jobs = [queued("q"), queued("r")]
    made = places(plan(jobs, [running("a")], nodes(1, 8, 1), {}, EASY, NOW))
    assert made["q"].estimate is None
    made = places(plan(jobs, [running("a", ends=100.0)], nodes(1, 8, 1), {}, EASY, NOW))
    assert made["q"].estimate == Estimate(NOW + 100, Basis.PROGRESS)
    assert made["r"].estimate is None


def test_an_estimate_knows_that_a_job_that_shrinks_runs_on() -> None:
    """One of four GPUs is freed for a job, and the next waits until the shrunk job ends."""
    elastic = running("a", 4, ends=500.0, sizes=(3, 4))
    jobs = [queued("q", priority=1), queued("r", 3)]
    policy = replace(PREEMPTING, elastic=True)
    made = plan(jobs, [elastic], nodes(1, 8, 4), {}, policy, NOW)
    assert made.resizes == (Resize("a", 3, "q"),)
    estimate = places(made)["r"].estimate
    assert estimate is None or estimate.at >= NOW + 500


@pytest.mark.parametrize(("start", "end"), [(0.0, 500.0), (100.0, 101.0), (400.0, 1000.0)])
def test_what_was_used_counts_half_after_each_half_life(start: float, end: float) -> None:
    now, half_life, steps = 1000.0, 300.0, 10_000
    width = (end - start) / steps
    moments = (start + (step + 0.5) * width for step in range(steps))
    expected = sum(2 ** -((now - moment) / half_life) * width for moment in moments)
    assert used_between(start, end, now, half_life) == pytest.approx(expected, rel=1e-6)


def test_what_was_used_just_now_counts_in_full() -> None:
    assert used_between(999.0, 1000.0, 1000.0, 1e9) == pytest.approx(1.0, rel=1e-6)
