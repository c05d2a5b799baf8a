"""The order of an epoch when images that lie together are best read together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Groups(NamedTuple):
    """Images that lie together, such as those of a shard in an object store."""

    sizes: Sequence[int]
    """Images of each group; the groups follow each other in the set."""
    lanes: int
    """How many groups are read side by side, at most."""
    window: int
    """Images of a lane that are shuffled with each other."""


def windowed_order(groups: Groups, batch_size: int, generator: torch.Generator) -> Tensor:
    """A permutation that reads few groups at a time.

    The groups are shuffled and laid end to end, and this line is cut into lanes of equal length.
    Each lane serves the same positions of every batch, so that a worker, which makes a part of each
    batch, reads only its lanes. Within a lane, each window of images is shuffled.

    It depends on the groups, the size of the batch and the generator alone: not on the number of
    workers.

    Args:
        groups: the images.
        batch_size: images of a step, over all workers.
        generator: draws the permutation.

    Returns:
        ``[N]``. The images that fill no whole batch come last.
    """
    sizes = np.asarray(groups.sizes, dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    shuffled = torch.randperm(len(sizes), generator=generator).numpy()
    taken = sizes[shuffled]
    shift = np.repeat(starts[shuffled] - (np.cumsum(taken) - taken), taken)
    line = torch.from_numpy(np.arange(len(shift)) + shift)
    lanes = max(n for n in range(1, min(groups.lanes, batch_size) + 1) if batch_size % n == 0)
    length, share = len(line) // lanes, batch_size // lanes
    steps = length // share
    lane = line[: lanes * length].view(lanes, length)
    window = torch.arange(length) // groups.window
    places = (window + torch.rand(lanes, length, generator=generator, dtype=torch.double)).argsort()
    lane = lane.gather(1, places)
    whole = lane[:, : steps * share].reshape(lanes, steps, share).transpose(0, 1)
    return torch.cat(
        [whole.reshape(-1), lane[:, steps * share :].reshape(-1), line[lanes * length :]]
    )
