"""Random crops of images: of a data set held in memory, or of files read as needed."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vicreg_platform.specs import Augmentation
from vicreg_platform.specs.data import Hold, Interpolation
from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.data.memory import memory_limit
from vicreg_workers.selfsup.data.random_parameters import draw_crops, draw_flips, generator_for
from vicreg_workers.selfsup.data.read_crops import ReadCrops, candidates, read_or_next
from vicreg_workers.selfsup.data.shared_memory import in_flight
from vicreg_workers.selfsup.data.steps import Chosen, Cropped
from vicreg_workers.selfsup.data.transforms import crop_batch
from vicreg_workers.selfsup.distributed import processes_on_node
from vicreg_workers.selfsup.errors import InvalidInput

logger = logging.getLogger(__name__)

MAIN_MEMORY = 2 * 2**30
"""In bytes: on CPUs, a data set of up to this size is held in memory, decoded."""
GPU_SHARE = 0.25
"""The share of a GPU's memory that a data set may take."""
HOST_SHARE = 0.5
"""The share of the container's or machine's memory that all its workers may take to load it."""
BLOCK = 256
"""Images that a process decodes at a time when all are to be held."""
PROBED = 32
"""Images read to see whether all have the same size."""


class Crops(Protocol):
    """Makes the crops of one step after another."""

    held_bytes: int
    """Of the device's memory that images take."""

    def of(self, steps: Iterable[Chosen]) -> Iterator[Cropped]:
        """Yield the crops of each step."""
        ...


def open_crops(
    images: Images,
    spec: Augmentation,
    device: torch.device,
    loaders: int,
    batch_bytes: int,
    interpolation: Interpolation,
    hold: Hold = "auto",
) -> Crops:
    """Choose the fastest way to crop ``images``.

    Images of one size that fit into the device's memory are decoded into it once, and cropped
    there in whole batches. Others are decoded and cropped one by one, by the loader processes.

    Args:
        images: what to read.
        spec: how crops are drawn.
        device: where the crops go.
        loaders: processes that read images; with 0, this process reads them.
        batch_bytes: of the crops of a step in this process, as bytes: the largest.
        interpolation: how crops are resized.
        hold: how many bytes decoded images may take.

    Raises:
        InvalidInput: the images cannot be read.
    """
    shape = None if hold == "never" else _common_shape(images)
    if shape is not None and len(images) * 3 * shape[0] * shape[1] < _room(device, hold):
        held = _hold(images, shape, loaders)
        if held is not None:
            pixels, sources, broken = held
            return _HeldCrops(pixels.to(device), sources, broken, spec, interpolation)
    return ReadCrops(images, spec, device, in_flight(loaders, batch_bytes), interpolation)


class _HeldCrops:
    """Crops of images held as uint8 ``[N, H, 3, W]``."""

    def __init__(
        self,
        pixels: Tensor,
        sources: list[int],
        broken: frozenset[int],
        spec: Augmentation,
        interpolation: Interpolation,
    ) -> None:
        self._pixels = pixels
        self.held_bytes = pixels.nbytes
        self._sources = sources
        self._broken = broken
        self._spec = spec
        self._interpolation = interpolation

    def of(self, steps: Iterable[Chosen]) -> Iterator[Cropped]:
        """See ``Crops``."""
        _, height, _, width = self._pixels.shape
        for indices, key, first, total, sides in steps:
            sources = [self._sources[index] for index in indices]
            rows = torch.tensor(sources).to(self._pixels.device, non_blocking=True)
            images = self._pixels.index_select(0, rows)
            heights = torch.full((len(indices),), height)
            widths = torch.full((len(indices),), width)
            generator = generator_for(*key)
            views, boxes = [], []
            for view, side in enumerate(sides):
                # Drawn for the global batch: the same whichever process makes this part of it.
                draws = draw_crops(self._spec, total, generator, view).rows(first, len(indices))
                flips = draw_flips(self._spec, total, generator)[first:][: len(indices)]
                crops = draws.boxes(heights, widths)
                views.append(crop_batch(images, crops, flips, side, self._interpolation))
                boxes.append(torch.cat([crops, flips[:, None].long()], dim=1))
            skipped = tuple(index for index in indices if index in self._broken)
            yield Cropped(tuple(views), sources, skipped, torch.stack(boxes, dim=1))


def _common_shape(images: Images) -> tuple[int, int] | None:
    """Height and width of the images, if a sample of them agrees; else None."""
    step = max(1, len(images) // PROBED)
    shapes = set()
    for index in range(0, len(images), step):
        try:
            image = images.read(index)
        except OSError:
            continue
        shapes.add((image.height, image.width))
        if len(shapes) > 1:
            return None
    return shapes.pop() if shapes else None


def _room(device: torch.device, hold: Hold) -> float:
    """Bytes that decoded images may take."""
    # By total memory, not by what is free now: a run that resumes must choose the same way.
    host = memory_limit() * HOST_SHARE / processes_on_node()
    if isinstance(hold, int):
        return min(hold, host)
    if device.type == "cuda":
        return min(torch.cuda.get_device_properties(device).total_memory * GPU_SHARE, host)
    return min(MAIN_MEMORY, host)


class _Decoded(Dataset[tuple[Tensor, list[int]] | None]):
    """Blocks of images of one size: a process would pass single small ones on too slowly.

    A block is the pixels ``[≤ BLOCK, H, 3, W]`` and the places in it of images that cannot be
    read; None if one has another size.
    """

    def __init__(self, images: Images, shape: tuple[int, int]) -> None:
        self._images = images
        self._height, self._width = shape

    def __len__(self) -> int:
        return math.ceil(len(self._images) / BLOCK)

    def __getitem__(self, block: int) -> tuple[Tensor, list[int]] | None:
        indices = range(block * BLOCK, min((block + 1) * BLOCK, len(self._images)))
        pixels = torch.empty(len(indices), self._height, 3, self._width, dtype=torch.uint8)
        broken = []
        for place, index in enumerate(indices):
            try:
                image = self._images.read(index)
            except OSError:
                broken.append(place)
                continue
            if image.size != (self._width, self._height):
                return None
            pixels[place] = torch.from_numpy(np.array(image)).transpose(1, 2)
        return pixels, broken


def _hold(
    images: Images, shape: tuple[int, int], loaders: int
) -> tuple[Tensor, list[int], frozenset[int]] | None:
    """All pixels, the row to use for each image, and the unreadable ones; None if sizes differ."""
    height, width = shape
    pixels = torch.empty(len(images), height, 3, width, dtype=torch.uint8)
    sources = list(range(len(images)))
    broken: list[int] = []
    block_bytes = pixels[:BLOCK].nbytes
    ahead = in_flight(loaders, block_bytes, otherwise="set data.hold to never")
    loader: DataLoader[tuple[Tensor, list[int]] | None] = DataLoader(
        _Decoded(images, shape),
        batch_size=None,
        num_workers=ahead.loaders,
        prefetch_factor=ahead.batches,
        generator=torch.Generator().manual_seed(0),
    )
    for block, decoded in enumerate(loader):
        if decoded is None:
            return None
        start = block * BLOCK
        pixels[start : start + len(decoded[0])] = decoded[0]
        broken += [start + place for place in decoded[1]]
    lost = set(broken)
    for index in broken:
        # Another try might succeed, but its pixels are not held.
        others = candidates(index, len(images))
        replacement = next((each for each in others if each not in lost), None)
        if replacement is None:
            read_or_next(images, index, images.read)
            raise InvalidInput(f"data: too many unreadable images, such as {images.name(index)}")
        sources[index] = replacement
    logger.info("%d images of %d×%d pixels are held in memory", len(images), width, height)
    return pixels, sources, frozenset(broken)
