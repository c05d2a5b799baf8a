"""The batches of random views that an epoch trains on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vicreg_platform.specs import Augmentation
from vicreg_platform.specs.data import Interpolation
from vicreg_workers.selfsup.data.crops import Chosen, open_crops
from vicreg_workers.selfsup.data.random_parameters import draw_colours, generator_for
from vicreg_workers.selfsup.data.sources import Images
from vicreg_workers.selfsup.data.transforms import normalise, recolour
from vicreg_workers.selfsup.distributed import rank, world_size
from vicreg_workers.selfsup.errors import InvalidInput

_ORDER, _CROPS, _COLOURS = range(3)


class Batch(NamedTuple):
    """The batch of one step in one process."""

    views: tuple[Tensor, ...]
    """Each ``[n, 3, S, S]`` float32, normalised, channels last, on the training device."""
    indices: list[int]
    """The images that the views are of."""
    skipped: tuple[int, ...]
    """Unreadable images, which were replaced."""


class ViewBatches:
    """Batches of random views, reshuffled each epoch.

    The global batch of a step, its order and its views depend only on ``seed``, the epoch and the
    step: any step can be made without those before it, and by any number of processes.

    Args:
        images: all images; each process takes its share.
        spec: how views are drawn.
        views: views per image, 1 or 2.
        image_size: side of a view, in pixels.
        batch_size: images per step over all processes; divisible by their number.
        seed: of everything drawn.
        device: where the views go.
        loaders: processes that read images; with 0, this process reads them.
        drop_last: whether an epoch leaves out an incomplete last batch. A single image is always
            left out, because BatchNorm cannot normalise it.
        interpolation: how crops are resized.

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
        device: torch.device,
        loaders: int,
        drop_last: bool = True,
        interpolation: Interpolation = "bicubic",
    ) -> None:
        if len(images) < batch_size:
            raise InvalidInput(
                f"data: {len(images)} images are fewer than training.batch_size ({batch_size})"
            )
        self._count = len(images)
        self._spec = spec
        self._batch_size = batch_size
        self._share = batch_size // world_size()
        self._drop_last = drop_last
        self._seed = seed
        self._crops = open_crops(
            images, spec, views, image_size, device, loaders, self._share, interpolation
        )

    def __len__(self) -> int:
        """Steps per epoch."""
        whole, left = divmod(self._count, self._batch_size)
        return whole + (left > 1 and not self._drop_last)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of ``epoch``, from its step ``start`` on."""
        order = torch.randperm(self._count, generator=self._generator(_ORDER, epoch))
        first = rank() * self._share
        steps = range(start, len(self))
        chosen = (
            Chosen(
                order[step * self._batch_size + first :][: self._share].tolist(),
                (self._seed, _CROPS, epoch, step),
                first,
                self._batch_size,
            )
            for step in steps
        )
        for step, cropped in zip(steps, self._crops.of(chosen), strict=True):
            generator = self._generator(_COLOURS, epoch, step)
            views = tuple(
                normalise(self._recoloured(view, which, generator))
                for which, view in enumerate(cropped.views)
            )
            yield Batch(views, cropped.indices, cropped.skipped)

    def _recoloured(self, view: Tensor, which: int, generator: torch.Generator) -> Tensor:
        colours = draw_colours(self._spec, which, self._batch_size, generator)
        return recolour(view, colours.rows(rank() * self._share, len(view)))

    def _generator(self, *key: int) -> torch.Generator:
        return generator_for(self._seed, *key)
