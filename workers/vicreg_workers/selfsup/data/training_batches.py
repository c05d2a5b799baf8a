"""The batches of random views that an epoch trains on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vicreg_platform.specs import Augmentation
from vicreg_platform.specs.data import Hold, Interpolation
from vicreg_workers.selfsup.data.crops import open_crops
from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.data.random_parameters import draw_colours, generator_for
from vicreg_workers.selfsup.data.steps import COLOURS, Cropped, Steps
from vicreg_workers.selfsup.data.transforms import normalise, recolour
from vicreg_workers.selfsup.distributed import rank, world_size
from vicreg_workers.selfsup.errors import InvalidInput


class Batch(NamedTuple):
    """The batch of one step in one process."""

    views: tuple[Tensor, ...]
    """Each ``[n, 3, S, S]`` float32, normalised, channels last, on the training device: the global
    ones, then the local ones."""
    indices: list[int]
    """The images that the views are of."""
    skipped: tuple[int, ...]
    """Unreadable images, which were replaced."""
    boxes: Tensor
    """What each view shows of its image: see ``Cropped``."""


class ViewBatches:
    """Batches of random views, reshuffled each epoch.

    The global batch of a step, its order and its views depend only on ``seed``, the epoch and the
    step: any step can be made without those before it, and by any number of processes.

    Args:
        images: all images; each process takes its share.
        spec: how views are drawn.
        views: global views per image, 1 or 2.
        image_size: side of a global view, in pixels.
        batch_size: images per step over all processes; divisible by their number.
        seed: of everything drawn.
        epochs: how many there are at most: nothing beyond them is read ahead.
        device: where the views go.
        loaders: processes that read images; with 0, this process reads them.
        drop_last: whether an epoch leaves out an incomplete last batch. A single image is always
            left out, because BatchNorm cannot normalise it.
        interpolation: how crops are resized.
        hold: how many bytes decoded images may take.
        sizes: if given, pairs of an epoch and the side of a global view from then on; the first
            epoch is 0.

    Raises:
        InvalidInput: there are fewer images than ``batch_size``, or they cannot be read.
    """

    def __init__(
        self,
        images: Images,
        spec: Augmentation,
        *,
        views: int,
        image_size: int,
        batch_size: int,
        seed: int,
        epochs: int,
        device: torch.device,
        loaders: int,
        drop_last: bool = True,
        interpolation: Interpolation = "bicubic",
        hold: Hold = "auto",
        sizes: Sequence[tuple[int, int]] = (),
    ) -> None:
        if len(images) < batch_size:
            raise InvalidInput(
                f"data: {len(images)} images are fewer than training.batch_size ({batch_size})"
            )
        self._spec = spec
        self._batch_size = batch_size
        self._share = batch_size // world_size()
        self._seed = seed
        local = (spec.views.local_size,) * spec.views.local
        sides = [(epoch, (size,) * views + local) for epoch, size in sizes or [(0, image_size)]]
        self.sides = list(dict.fromkeys(each for _, each in sides))
        """Those of the views of a batch, in pixels: all that there are in one epoch or another."""
        self.steps = Steps(images, sides, seed, epochs, batch_size, drop_last)
        """Which images the batches are made of, and where they are cropped."""
        pixels = max(sum(side**2 for side in each) for each in self.sides)
        self.crops = open_crops(
            images, spec, device, loaders, self._share * 3 * pixels, interpolation, hold
        )
        """What reads and crops them."""
        self.steps.reads_ahead = not self.held_bytes
        self._cropped: Iterator[Cropped] = iter(())
        self._next: tuple[int, int] | None = None
        """The epoch and step of the next batch that ``_cropped`` yields."""

    @property
    def held_bytes(self) -> int:
        """Of the device's memory that images take."""
        return self.crops.held_bytes

    def __len__(self) -> int:
        """Steps per epoch."""
        return len(self.steps)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of ``epoch``, from its step ``start`` on.

        The first batches of the next epoch are read meanwhile: it does not wait for them.
        """
        if self._next != (epoch, start):
            self._cropped = iter(self.crops.of(self.steps.after(epoch, start)))
        for step in range(start, len(self)):
            cropped = next(self._cropped)
            self._next = (epoch, step + 1) if step + 1 < len(self) else (epoch + 1, 0)
            generator = generator_for(self._seed, COLOURS, epoch, step)
            views = tuple(
                normalise(self._recoloured(view, which, generator))
                for which, view in enumerate(cropped.views)
            )
            yield Batch(views, cropped.indices, cropped.skipped, cropped.boxes)

    def _recoloured(self, view: Tensor, which: int, generator: torch.Generator) -> Tensor:
        colours = draw_colours(self._spec, which, self._batch_size, generator)
        return recolour(view, colours.rows(rank() * self._share, len(view)))
