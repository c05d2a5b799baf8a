"""Batches of images with masks: random crops and flips for training, whole images for the test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.functional import pil_to_tensor

from vicreg_platform.specs import Augmentation
from vicreg_platform.specs.data import Interpolation
from vicreg_workers.selfsup.data.dense.masked_images import IGNORED, MaskedImages
from vicreg_workers.selfsup.data.drawn_batches import in_batches, order_of, read_batches
from vicreg_workers.selfsup.data.random_parameters import draw_crops, draw_flips, generator_for
from vicreg_workers.selfsup.data.steps import CROPS
from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.selfsup.imagenet import IMAGENET_MEAN

CROP_SCALE = (0.25, 1.0)
"""The share of an image that a crop covers: at least what 512 pixels do of an image whose shorter
side is 1,024, the largest size of mmsegmentation's ``pascal_voc12.py``."""
PADDING = tuple(round(255 * mean) for mean in IMAGENET_MEAN)
"""Colour of the padding: nearly 0 once normalised."""
AUGMENTATION = Augmentation.model_validate({"crop_scale": CROP_SCALE})
"""Of which the crops and flips are drawn."""
PIXEL_BYTES = 3 + 4
"""Of a batch: a pixel's colours, and its class."""


class MaskedBatch(NamedTuple):
    """Views with their masks, on the CPU."""

    views: Tensor
    """uint8 ``[n, 3, S, S]``."""
    masks: Tensor
    """int32 ``[n, S, S]``: classes, or ``IGNORED``."""
    unreadable: tuple[int, ...]
    """The indices of images that are left out."""


def random_masked_batches(
    images: MaskedImages,
    classes: int,
    *,
    image_size: int,
    batch_size: int,
    seed: int,
    epochs: int,
    loaders: int,
    interpolation: Interpolation,
    pinned: bool = False,
) -> Iterator[MaskedBatch]:
    """Yield the batches of all epochs: every image once an epoch, cropped and flipped at random.

    They are a function of the seed alone, for any number of loaders.

    Args:
        images: what to read.
        classes: how many there are: labels are below it.
        image_size: S, the side of a view in pixels.
        batch_size: images per batch; the last of an epoch may have fewer.
        seed: of the order, the crops and the flips.
        epochs: how often every image is seen.
        loaders: processes that read images; with 0, this process reads them.
        interpolation: how images are resized; masks take the nearest pixel.
        pinned: see ``read_batches``.

    Raises:
        InvalidInput: a mask has a label that is not below ``classes``.
    """
    batches: list[list[_Draw]] = []
    for epoch in range(epochs):
        draws = [(epoch, index) for index in order_of(len(images), seed, epoch)]
        batches += in_batches(draws, batch_size)
    view = _RandomView(image_size, interpolation, seed)
    return _read(_Dataset(images, classes, view), batches, loaders, image_size, pinned)


def plain_masked_batches(
    images: MaskedImages,
    classes: int,
    *,
    image_size: int,
    batch_size: int,
    loaders: int,
    interpolation: Interpolation,
    pinned: bool = False,
) -> Iterator[MaskedBatch]:
    """Yield every image once, whole: resized to fit a square, and padded.

    Args:
        images: what to read.
        classes: how many there are: labels are below it.
        image_size: S, the side of the square in pixels.
        batch_size: images per batch.
        loaders: processes that read images; with 0, this process reads them.
        interpolation: how images are resized; masks take the nearest pixel.
        pinned: see ``read_batches``.

    Raises:
        InvalidInput: a mask has a label that is not below ``classes``.
    """
    draws = [(0, index) for index in range(len(images))]
    view = _WholeView(image_size, interpolation)
    batches = in_batches(draws, batch_size)
    return _read(_Dataset(images, classes, view), batches, loaders, image_size, pinned)


def nearest_mask(mask: Tensor, high: int, wide: int) -> Tensor:
    """The mask resized: each pixel takes the one under its centre."""
    rows, columns = (
        ((torch.arange(size) + 0.5) * (length / size)).long()
        for size, length in zip((high, wide), mask.shape, strict=True)
    )
    return mask[rows][:, columns]


class _RandomView(NamedTuple):
    """A crop of an image and its mask, which may be mirrored."""

    image_size: int
    interpolation: Interpolation
    seed: int

    def of(self, draw: _Draw, image: Image.Image, mask: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 ``[3, S, S]``, and the mask ``[S, S]``."""
        generator = generator_for(self.seed, CROPS, *draw)
        draws = draw_crops(AUGMENTATION, 1, generator)
        crops = draws.boxes(torch.tensor([image.height]), torch.tensor([image.width]))
        top, left, high, wide = crops[0].tolist()
        box = (left, top, left + wide, top + high)
        side = self.image_size
        pixels = pil_to_tensor(
            image.resize((side, side), Image.Resampling[self.interpolation.upper()], box)
        )
        labels = nearest_mask(mask[top : top + high, left : left + wide], side, side)
        if draw_flips(AUGMENTATION, 1, generator):
            return pixels.flip(2), labels.flip(1)
        return pixels, labels


class _WholeView(NamedTuple):
    """A whole image and its mask, resized to fit a square, and padded."""

    image_size: int
    interpolation: Interpolation

    def of(self, draw: _Draw, image: Image.Image, mask: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 ``[3, S, S]``, and the mask ``[S, S]``."""
        scale = self.image_size / max(image.size)
        wide, high = (max(1, round(side * scale)) for side in image.size)
        square = Image.new("RGB", (self.image_size, self.image_size), PADDING)
        square.paste(image.resize((wide, high), Image.Resampling[self.interpolation.upper()]))
        labels = mask.new_full((self.image_size, self.image_size), IGNORED)
        labels[:high, :wide] = nearest_mask(mask, high, wide)
        return pil_to_tensor(square), labels


_Draw = tuple[int, int]
"""The epoch, and the index of an image."""
_Sample = tuple[Tensor, Tensor] | int | InvalidInput
"""A view and its mask; the index of an image that cannot be read; or what ends the evaluation."""


class _Dataset(Dataset[_Sample]):
    def __init__(
        self,
        images: MaskedImages,
        classes: int,
        view: _RandomView | _WholeView,
    ) -> None:
        self._images = images
        self._classes = classes
        self._view = view

    def __getitem__(self, draw: _Draw) -> _Sample:
        _, index = draw
        try:
            image, mask = self._images.pair(index)
        except OSError:
            return index
        highest = int(mask.max())
        if highest >= self._classes:
            # Returned: raised in a loader, its text would be a traceback.
            return InvalidInput(
                f"data: the mask {self._images.mask_name(index)} has a pixel of class {highest}, "
                f"and there are {self._classes} classes, from 0: correct the mask, or set "
                "data.train.num_classes or ignore_index"
            )
        return self._view.of(draw, image, mask)


def _read(
    dataset: _Dataset, batches: list[list[_Draw]], loaders: int, image_size: int, pinned: bool
) -> Iterator[MaskedBatch]:
    size = image_size**2 * PIXEL_BYTES
    for batch in read_batches(dataset, batches, loaders, size, _collate, pinned):
        if isinstance(batch, InvalidInput):
            raise batch
        yield batch


def _collate(samples: list[_Sample]) -> MaskedBatch | InvalidInput:
    fault = next((each for each in samples if isinstance(each, InvalidInput)), None)
    if fault is not None:
        return fault
    unreadable = tuple(each for each in samples if isinstance(each, int))
    pairs = [each for each in samples if isinstance(each, tuple)]
    if not pairs:
        return MaskedBatch(torch.empty(0), torch.empty(0), unreadable)
    views, masks = zip(*pairs, strict=True)
    return MaskedBatch(torch.stack(views), torch.stack(masks), unreadable)
