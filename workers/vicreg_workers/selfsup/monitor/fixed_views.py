"""The same random views of the same images, whenever they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vicreg_platform.specs import Augmentation
from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.data.random_parameters import draw_colours, generator_for
from vicreg_workers.selfsup.data.read_crops import ReadCrops
from vicreg_workers.selfsup.data.shared_memory import HERE
from vicreg_workers.selfsup.data.steps import COLOURS, CROPS, Chosen
from vicreg_workers.selfsup.data.transforms import normalise, recolour

SEED = 0


class FixedViews:
    """Views by the training's augmentation. Its own random state is left alone.

    Args:
        images: what the views are of.
        spec: how they are drawn.
        image_size: side of a view, in pixels.
        device: where they go.
    """

    def __init__(
        self, images: Images, spec: Augmentation, image_size: int, device: torch.device
    ) -> None:
        self._count = len(images)
        self._spec = spec
        self._sides = (image_size, image_size)
        self._crops = ReadCrops(images, spec, device, HERE, "bicubic")

    def pairs(self, count: int) -> Iterator[Tensor]:
        """Yield 2 ``count`` views of all images, each ``[N, 3, S, S]``, normalised.

        They are first and second views in turn. An image that cannot be read is replaced by
        another.
        """
        chosen = [
            Chosen(list(range(self._count)), (SEED, CROPS, pair), 0, self._count, self._sides)
            for pair in range(count)
        ]
        for pair, cropped in enumerate(self._crops.of(chosen)):
            generator = generator_for(SEED, COLOURS, pair)
            for which, view in enumerate(cropped.views):
                colours = draw_colours(self._spec, which, self._count, generator)
                yield normalise(recolour(view, colours))
