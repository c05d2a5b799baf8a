"""Batches of what a data set makes of draws, read by other processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from vicreg_workers.selfsup.data.random_parameters import generator_for
from vicreg_workers.selfsup.data.shared_memory import in_flight
from vicreg_workers.selfsup.data.steps import ORDER

Draw = TypeVar("Draw")
Made = TypeVar("Made")


def order_of(count: int, seed: int, epoch: int) -> list[int]:
    """The order of an epoch: the indices below ``count``, shuffled."""
    return torch.randperm(count, generator=generator_for(seed, ORDER, epoch)).tolist()


def in_batches(draws: Sequence[Draw], size: int) -> list[list[Draw]]:
    """Draws in batches of a size; the last one may be smaller."""
    return [list(draws[start : start + size]) for start in range(0, len(draws), size)]


def batch_count(images: int, epochs: int, size: int) -> int:
    """How many batches there are in epochs that end with a smaller one."""
    return epochs * math.ceil(images / size)


def read_batches(
    dataset: Dataset[Any],
    batches: list[list[Draw]],
    loaders: int,
    sample_bytes: int,
    collate: Callable[[list[Any]], Made],
    pinned: bool,
) -> Iterator[Made]:
    """Yield each batch in order.

    Args:
        dataset: makes a sample of a draw.
        batches: the draws.
        loaders: processes that read; with 0, this process reads.
        sample_bytes: of a sample, at most.
        collate: makes a batch of samples.
        pinned: whether their memory is pinned, so that a GPU copies them without a wait.
    """
    largest = max((len(batch) for batch in batches), default=0)
    ahead = in_flight(loaders, largest * sample_bytes)
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=ahead.loaders,
        prefetch_factor=ahead.batches,
        collate_fn=collate,
        pin_memory=pinned,
        # Its own generator: reading images must not change what is drawn next.
        generator=torch.Generator().manual_seed(0),
    )
    return iter(loader)
