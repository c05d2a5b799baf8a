"""Which images each step trains on, and their crops."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.data.random_parameters import generator_for
from vicreg_workers.selfsup.distributed import rank, world_size

ORDER, CROPS, COLOURS = range(3)
"""What is drawn by generators of its own."""
READ_AHEAD = 32
"""Steps whose images a store is asked for before they are needed."""


class Chosen(NamedTuple):
    """The images of a step in this process."""

    indices: list[int]
    key: tuple[int, ...]
    """Seeds their random parameters, together with their positions."""
    first: int
    """The position of the first one in the global batch."""
    total: int
    """Size of the global batch."""
    sides: tuple[int, ...]
    """Of each view, in pixels."""


class Cropped(NamedTuple):
    """The crops of a step."""

    views: tuple[Tensor, ...]
    """For each view, ``[n, 3, S, S]`` float32 in [0, 1], S being its side."""
    indices: list[int]
    """The images they come from, after unreadable ones were replaced."""
    skipped: tuple[int, ...]
    """The unreadable images."""
    boxes: Tensor
    """What each view shows of its image, ``[n, V, 5]`` integers on the CPU: top, left, height and
    width in pixels, and 1 if it is mirrored, else 0."""


class Steps:
    """The images of every step of every epoch: a function of the seed, the epoch and the step.

    Args:
        images: all images; each process takes its share.
        sides: pairs of an epoch and the sides of the views from then on, in pixels; the first
            epoch is 0.
        seed: of their order.
        epochs: how many there are at most.
        batch_size: images per step over all processes.
        drop_last: whether an epoch leaves out an incomplete last batch. A single image is always
            left out, because BatchNorm cannot normalise it.
    """

    reads_ahead = True
    """Whether a store is asked for images before they are needed; not if they are held."""

    def __init__(
        self,
        images: Images,
        sides: Sequence[tuple[int, tuple[int, ...]]],
        seed: int,
        epochs: int,
        batch_size: int,
        drop_last: bool,
    ) -> None:
        self._images = images
        self._sides = sides
        self._seed = seed
        self._epochs = epochs
        self._batch_size = batch_size
        self._share = batch_size // world_size()
        self._drop_last = drop_last

    def __len__(self) -> int:
        """Steps per epoch."""
        whole, left = divmod(len(self._images), self._batch_size)
        return whole + (left > 1 and not self._drop_last)

    def after(self, epoch: int, start: int) -> Iterator[Chosen]:
        """What each step needs in this process, from a step of an epoch to the last epoch's end."""
        if not self.reads_ahead:
            yield from self._from(epoch, start)
            return
        ahead, behind = itertools.tee(self._from(epoch, start))
        for chosen in itertools.islice(ahead, READ_AHEAD):
            self._images.will_read(chosen.indices)
        for chosen in behind:
            following = next(ahead, None)
            if following is not None:
                self._images.will_read(following.indices)
            yield chosen

    def _from(self, epoch: int, start: int) -> Iterator[Chosen]:
        first = rank() * self._share
        for each in range(epoch, self._epochs):
            generator = generator_for(self._seed, ORDER, each)
            order = self._images.order(self._batch_size, generator)
            sides = [sides for start, sides in self._sides if start <= each][-1]
            for step in range(start if each == epoch else 0, len(self)):
                mine = order[step * self._batch_size + first :][: self._share].tolist()
                key = (self._seed, CROPS, each, step)
                yield Chosen(mine, key, first, self._batch_size, sides)
