"""Random crops of images: of a data set held in memory, or of files read as needed."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
import psutil
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vicreg_platform.specs import Augmentation
from vicreg_platform.specs.data import Interpolation
from vicreg_workers.selfsup.data.random_parameters import draw_crops, draw_flips, generator_for
from vicreg_workers.selfsup.data.shared_memory import loaders_within
from vicreg_workers.selfsup.data.sources import Images
from vicreg_workers.selfsup.data.transforms import crop_batch
from vicreg_workers.selfsup.distributed import world_size
from vicreg_workers.selfsup.errors import InvalidInput

logger = logging.getLogger(__name__)

MAX_REPLACEMENTS = 100
"""Unreadable images in a row after which the training gives up."""
MAIN_MEMORY = 2 * 2**30
"""In bytes: on CPUs, a data set of up to this size is held in memory, decoded."""
GPU_SHARE = 0.25
"""The share of a GPU's memory that a data set may take."""
HOST_SHARE = 0.5
"""The share of the machine's memory that all its workers may take to load it."""
BLOCK = 256
"""Images that a process decodes at a time when all are to be held."""
PROBED = 32
"""Images read to see whether all have the same size."""


class Chosen(NamedTuple):
    """The images of a step in this process."""

    indices: list[int]
    key: tuple[int, ...]
    """Seeds their random parameters, together with their positions."""
    first: int
    """The position of the first one in the global batch."""
    total: int
    """Size of the global batch."""


class Cropped(NamedTuple):
    """The crops of a step."""

    views: tuple[Tensor, ...]
    """For each view, ``[n, 3, S, S]`` float32 in [0, 1]."""
    indices: list[int]
    """The images they come from, after unreadable ones were replaced."""
    skipped: tuple[int, ...]
    """The unreadable images."""


class Crops(Protocol):
    """Makes the crops of one step after another."""

    def of(self, steps: Iterable[Chosen]) -> Iterator[Cropped]:
        """Yield the crops of each step."""
        ...


def open_crops(
    images: Images,
    spec: Augmentation,
    views: int,
    image_size: int,
    device: torch.device,
    loaders: int,
    batch_size: int,
    interpolation: Interpolation,
) -> Crops:
    """Choose the fastest way to crop ``images``.

    Images of one size that fit into the device's memory are decoded into it once, and cropped
    there in whole batches. Others are decoded and cropped one by one, by the loader processes.

    Args:
        images: what to read.
        spec: how crops are drawn.
        views: crops per image.
        image_size: side of a crop, in pixels.
        device: where the crops go.
        loaders: processes that read images; with 0, this process reads them.
        batch_size: images of a step in this process.
        interpolation: how crops are resized.

    Raises:
        InvalidInput: the images cannot be read.
    """
    shape = _common_shape(images)
    if shape is not None and _fits(len(images) * 3 * shape[0] * shape[1], device):
        held = _hold(images, shape, loaders)
        if held is not None:
            pixels, sources, broken = held
            return _HeldCrops(
                pixels.to(device), sources, broken, spec, views, image_size, interpolation
            )
    loaders = loaders_within(loaders, batch_size * views * 3 * image_size**2)
    return _ReadCrops(images, spec, views, image_size, device, loaders, interpolation)


class _HeldCrops:
    """Crops of images held as uint8 ``[N, H, 3, W]``."""

    def __init__(
        self,
        pixels: Tensor,
        sources: list[int],
        broken: frozenset[int],
        spec: Augmentation,
        views: int,
        image_size: int,
        interpolation: Interpolation,
    ) -> None:
        self._pixels = pixels
        self._sources = sources
        self._broken = broken
        self._spec = spec
        self._views = views
        self._image_size = image_size
        self._interpolation = interpolation

    def of(self, steps: Iterable[Chosen]) -> Iterator[Cropped]:
        """See ``Crops``."""
        _, height, _, width = self._pixels.shape
        for indices, key, first, total in steps:
            sources = [self._sources[index] for index in indices]
            rows = torch.tensor(sources).to(self._pixels.device, non_blocking=True)
            images = self._pixels.index_select(0, rows)
            generator = generator_for(*key)
            views = []
            for _ in range(self._views):
                # Drawn for the global batch: the same whichever process makes this part of it.
                crops = draw_crops(self._spec, total, height, width, generator)
                flips = draw_flips(self._spec, total, generator)
                mine = slice(first, first + len(indices))
                views.append(
                    crop_batch(
                        images, crops[mine], flips[mine], self._image_size, self._interpolation
                    )
                )
            skipped = tuple(index for index in indices if index in self._broken)
            yield Cropped(tuple(views), sources, skipped)


class _ReadCrops:
    """Crops of images that are read when needed."""

    def __init__(
        self,
        images: Images,
        spec: Augmentation,
        views: int,
        image_size: int,
        device: torch.device,
        loaders: int,
        interpolation: Interpolation,
    ) -> None:
        self._device = device
        self._places = _Places()
        self._loader: DataLoader[_CroppedImage] = DataLoader(
            _CropDataset(images, spec, views, image_size, interpolation),
            batch_sampler=self._places,
            num_workers=loaders,
            # They start once, not at every epoch.
            persistent_workers=loaders > 0,
            collate_fn=_collate,
            pin_memory=device.type == "cuda",
            # Its own generator: a loader would draw a seed from the global one when it starts.
            generator=torch.Generator().manual_seed(0),
        )

    def of(self, steps: Iterable[Chosen]) -> Iterator[Cropped]:
        """See ``Crops``."""
        self._places.steps = steps
        try:
            for pixels, indices, skipped in self._loader:
                moved = (view.to(self._device, non_blocking=True) for view in pixels)
                yield Cropped(tuple(view.float().div_(255) for view in moved), indices, skipped)
        except InvalidInput as error:
            # A loader process's error carries its traceback as text; the last line is the reason.
            reason = str(error).strip().splitlines()[-1]
            # The frames would keep the loader and its processes alive until the next collection.
            error.__traceback__ = None
            raise InvalidInput(reason.rpartition(f"{InvalidInput.__name__}: ")[2]) from None


class _Place(NamedTuple):
    """An image to read, and the seed of its random parameters."""

    image: int
    key: tuple[int, ...]


class _Places:
    """The images of each step, for a loader's ``batch_sampler``."""

    steps: Iterable[Chosen] = ()

    def __iter__(self) -> Iterator[list[_Place]]:
        for indices, key, first, _ in self.steps:
            yield [_Place(index, (*key, first + n)) for n, index in enumerate(indices)]


class _CroppedImage(NamedTuple):
    views: tuple[Tensor, ...]
    image: int
    skipped: tuple[int, ...]


class _CropDataset(Dataset[_CroppedImage]):
    def __init__(
        self,
        images: Images,
        spec: Augmentation,
        views: int,
        image_size: int,
        interpolation: Interpolation,
    ) -> None:
        self._images = images
        self._spec = spec
        self._views = views
        self._size = (image_size, image_size)
        self._filter = Image.Resampling[interpolation.upper()]

    def __getitem__(self, place: _Place) -> _CroppedImage:
        image, index, skipped = read_or_next(self._images, place.image)
        generator = generator_for(*place.key)
        views = []
        for _ in range(self._views):
            ((top, left, height, width),) = draw_crops(
                self._spec, 1, image.height, image.width, generator
            ).tolist()
            box = (left, top, left + width, top + height)
            view = image.crop(box).resize(self._size, self._filter)
            if draw_flips(self._spec, 1, generator).item():
                view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            views.append(torch.from_numpy(np.array(view)).permute(2, 0, 1))
        return _CroppedImage(tuple(views), index, skipped)


def read_or_next(images: Images, index: int) -> tuple[Image.Image, int, tuple[int, ...]]:
    """Read image ``index``, or the next one that can be read, so that batches keep their size.

    Returns:
        The image, its index, and the indices of the unreadable ones before it.

    Raises:
        InvalidInput: too many in a row cannot be read.
    """
    skipped: list[int] = []
    while True:
        try:
            return images.read(index), index, tuple(skipped)
        except OSError as error:
            skipped.append(index)
            index = (index + 1) % len(images)
            if len(skipped) >= min(MAX_REPLACEMENTS, len(images)):
                raise InvalidInput(
                    f"data: {len(skipped)} images in a row cannot be read, the last being "
                    f"{images.name(skipped[-1])}: {error}"
                ) from None


def _collate(
    samples: list[_CroppedImage],
) -> tuple[tuple[Tensor, ...], list[int], tuple[int, ...]]:
    views = tuple(torch.stack(view) for view in zip(*(s.views for s in samples), strict=True))
    skipped = tuple(index for sample in samples for index in sample.skipped)
    return views, [sample.image for sample in samples], skipped


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


def _fits(size: int, device: torch.device) -> bool:
    if device.type == "cuda":
        # By total memory, not by what is free now: a run that resumes must choose the same way.
        host = psutil.virtual_memory().total * HOST_SHARE / world_size()
        card = torch.cuda.get_device_properties(device).total_memory
        return size < min(card * GPU_SHARE, host)
    return size < MAIN_MEMORY


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
    loader: DataLoader[tuple[Tensor, list[int]] | None] = DataLoader(
        _Decoded(images, shape),
        batch_size=None,
        num_workers=loaders,
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
        following = ((index + place) % len(images) for place in range(MAX_REPLACEMENTS))
        replacement = next((each for each in following if each not in lost), None)
        if replacement is None:
            read_or_next(images, index)
            raise InvalidInput(f"data: too many unreadable images, such as {images.name(index)}")
        sources[index] = replacement
    logger.info("%d images of %d×%d pixels are held in memory", len(images), width, height)
    return pixels, sources, frozenset(broken)
