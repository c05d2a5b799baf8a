"""What is free for the platform's jobs, by what Ray says and what the database knows."""

from __future__ import annotations

import pytest

from vicreg_platform.cluster import Capacity, nodes_of
from vicreg_platform.dispatch.demand import Demand, within
from vicreg_platform.dispatch.plan import Running
from vicreg_platform.needs import Bundle, Needs

ONE = Needs(Bundle(1, 0), count=1)


def running(name: str, size: int = 1, cpus: float = 1) -> Running:
    return Running(name, 0, None, Bundle(cpus, 0), size, started=0.0)


def demand(*jobs: Running, in_driver: tuple[str, ...] = (), released: int = 0) -> Demand:
    return Demand([], list(jobs), {}, {}, [], frozenset(in_driver), [ONE] * released)


def taken(capacity: Capacity, wanted: Demand) -> list[float]:
    _, space = within(capacity, wanted)
    return [bundle.cpus for bundle in space.taken] or [0.0] * len(capacity.nodes)


@pytest.mark.parametrize(
    ("own", "released", "others"), [(0, 0, 2), (1, 0, 1), (0, 1, 2), (0, 2, 0)]
)
def test_what_ray_counts_late_is_not_taken_for_others(
    own: int, released: int, others: float
) -> None:
    # Ray counts what was released for some seconds more: both CPUs are in use.
    lagging = Capacity(nodes_of("1x2"), used=Bundle(2, 0), free=(Bundle(0, 0),))
    jobs = [running(str(number)) for number in range(own)]
    assert taken(lagging, demand(*jobs, released=released)) == [others]


def test_what_ray_has_not_counted_yet_is_the_jobs() -> None:
    early = Capacity(nodes_of("1x2"), used=Bundle(0, 0), free=(Bundle(2, 0),))
    known, space = within(early, demand(running("a")))
    assert space.taken in ((), (Bundle(0, 0),))
    assert known.running[0].on == ((0, Bundle(1, 0)),)


def test_of_several_nodes_each_has_its_own_jobs_and_others() -> None:
    capacity = Capacity(
        nodes_of("2x4"),
        used=Bundle(5, 0),
        free=(Bundle(1, 0), Bundle(2, 0)),
        placed=({"a-1": Bundle(2, 0), "b-1": Bundle(0, 0)}, {"a-1": Bundle(0, 0)}),
    )
    known, space = within(capacity, demand(running("a", 2), running("b"), in_driver=("b",)))
    # One process holds its CPU in its driver; the driver of several workers holds none.
    assert {job.id: job.on for job in known.running} == {
        "a": ((0, Bundle(2, 0)),),
        "b": ((0, Bundle(1, 0)),),
    }
    assert [bundle.cpus for bundle in space.taken] == [0.0, 2.0]


def test_of_a_cluster_that_scales_others_use_is_known_in_total() -> None:
    capacity = Capacity(nodes_of("4x4"), used=Bundle(7, 0))
    assert taken(capacity, demand(running("a", 2))) == [4.0, 1.0, 0.0, 0.0]


def test_a_sweep_holds_no_more_than_there_is() -> None:
    capacity = Capacity(nodes_of("2x4"), used=Bundle(8, 0), free=(Bundle(0, 0), Bundle(0, 0)))
    known, _ = within(capacity, demand(running("sweep", size=50, cpus=2)))
    assert known.running[0].size == 4
