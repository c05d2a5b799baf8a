"""An order of images that lie together: a permutation that reads few groups at a time."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vicreg_workers.selfsup.data.order import Groups, windowed_order


def order(
    sizes: list[int], batch: int, seed: int = 0, lanes: int = 8, window: int = 16
) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    numbers: list[int] = windowed_order(Groups(sizes, lanes, window), batch, generator).tolist()
    return numbers


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(any),
    st.integers(1, 50),
    st.integers(1, 70),
    st.integers(1, 20),
)
def test_every_image_comes_once(sizes: list[int], batch: int, lanes: int, window: int) -> None:
    got = order(sizes, batch, lanes=lanes, window=window)
    assert sorted(got) == list(range(sum(sizes)))


def test_it_is_another_one_for_another_seed() -> None:
    assert order([50] * 20, 40) == order([50] * 20, 40)
    assert order([50] * 20, 40) != order([50] * 20, 40, seed=1)


def test_a_part_of_each_batch_reads_its_own_lanes() -> None:
    """Half of the workers read half of the shards, and a few at a time."""
    batch, shards, lanes = 64, 64, 8
    got = torch.tensor(order([100] * shards, batch)).view(-1, batch) // 100
    left, right = (set(half.flatten().tolist()) for half in got.chunk(2, dim=1))
    assert len(left & right) <= 1  # the shard that lies across the border between two lanes
    for step in got:
        assert len(set(step.tolist())) <= 2 * lanes


def test_neighbours_of_a_shard_are_apart() -> None:
    """Within a window, the order is random: a shard sorted by class is no longer."""
    got = order([400], 40, lanes=1, window=100)
    steps = [abs(a - b) for a, b in itertools.pairwise(got)]
    # Two random places of 100 are 33 apart on average.
    assert 25 < sum(steps) / len(steps) < 45
    assert max(got[:100]) == 99
