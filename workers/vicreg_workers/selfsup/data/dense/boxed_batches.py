"""Batches of images with objects: mirrored at random for training, or as they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.functional import pil_to_tensor

from vicreg_platform.specs.data import Interpolation
from vicreg_workers.selfsup.data.dense.boxed_images import BoxedImages
from vicreg_workers.selfsup.data.drawn_batches import in_batches, order_of, read_batches
from vicreg_workers.selfsup.data.random_parameters import generator_for
from vicreg_workers.selfsup.data.steps import CROPS

LONGEST = 5 / 3
"""The longer side of a view, at most, in shorter ones (Detectron2's ``INPUT``: 1333 for 800)."""
USUAL_OBJECTS = 16
"""In an image: for an estimate of what its masks take. COCO has 7 on average."""


class BoxedView(NamedTuple):
    """An image and its objects, on the CPU."""

    pixels: Tensor
    """uint8 ``[3, h, w]``."""
    boxes: Tensor
    """float32 ``[n, 4]``: left, top, right and bottom, in pixels of the view."""
    categories: Tensor
    """int64 ``[n]``: indices of classes."""
    ignored: Tensor
    """bool ``[n]``: objects that are not trained on, and are ignored in the test."""
    masks: Tensor | None
    """uint8 ``[n, h, w]``, if they were asked for."""


class BoxedBatch(NamedTuple):
    """Some views."""

    views: list[BoxedView]
    unreadable: tuple[int, ...]
    """The indices of images that are left out."""


def random_boxed_batches(
    images: BoxedImages,
    *,
    image_size: int,
    batch_size: int,
    seed: int,
    epochs: int,
    loaders: int,
    interpolation: Interpolation,
    pinned: bool = False,
) -> Iterator[BoxedBatch]:
    """Yield the batches of all epochs: every image once an epoch, mirrored at random.

    They are a function of the seed alone, for any number of loaders.

    Args:
        images: what to read; with masks if they say so.
        image_size: the shorter side of a view in pixels.
        batch_size: images per batch; the last of an epoch may have fewer.
        seed: of the order and the flips.
        epochs: how often every image is seen.
        loaders: processes that read images; with 0, this process reads them.
        interpolation: how images are resized.
        pinned: see ``read_batches``.
    """
    batches: list[list[_Draw]] = []
    for epoch in range(epochs):
        order = order_of(len(images), seed, epoch)
        flips = torch.rand(len(images), generator=generator_for(seed, CROPS, epoch)) < 0.5
        draws = list(zip(order, flips.tolist(), strict=True))
        batches += in_batches(draws, batch_size)
    return _read(_Dataset(images, image_size, interpolation), batches, loaders, pinned)


def plain_boxed_batches(
    images: BoxedImages,
    *,
    image_size: int,
    batch_size: int,
    loaders: int,
    interpolation: Interpolation,
    pinned: bool = False,
) -> Iterator[BoxedBatch]:
    """Yield every image once. The arguments are those of ``random_boxed_batches``."""
    draws = [(index, False) for index in range(len(images))]
    batches = in_batches(draws, batch_size)
    return _read(_Dataset(images, image_size, interpolation), batches, loaders, pinned)


_Draw = tuple[int, bool]
"""The index of an image, and whether it is mirrored."""
_Sample = BoxedView | int
"""A view, or the index of an image that cannot be read."""


class _Dataset(Dataset[_Sample]):
    def __init__(self, images: BoxedImages, image_size: int, interpolation: Interpolation) -> None:
        self._images = images
        self._size = image_size
        self._filter = Image.Resampling[interpolation.upper()]

    @property
    def bytes(self) -> int:
        """Of a view, at most, with as many masks as are usual."""
        each = 3 + (USUAL_OBJECTS if self._images.masks else 0)
        return int(self._size**2 * LONGEST * each)

    def __getitem__(self, draw: _Draw) -> _Sample:
        index, mirrored = draw
        try:
            image, objects = self._images.pair(index)
            wide, high = view_size(image.width, image.height, self._size)
            masks = self._masks(index, wide, high)
        except OSError:
            return index
        pixels = pil_to_tensor(image.resize((wide, high), self._filter))
        scale = torch.tensor([wide / image.width, high / image.height]).repeat(2)
        boxes = torch.from_numpy(objects.boxes) * scale
        if mirrored:
            left, top, right, bottom = boxes.unbind(1)
            boxes = torch.stack([wide - right, top, wide - left, bottom], dim=1)
            pixels = pixels.flip(2)
            masks = None if masks is None else masks.flip(2)
        categories, ignored = (
            torch.from_numpy(each.copy()) for each in (objects.categories, objects.ignored)
        )
        return BoxedView(pixels, boxes, categories, ignored, masks)

    def _masks(self, index: int, wide: int, high: int) -> Tensor | None:
        if not self._images.masks:
            return None
        # Imported here: the masks are drawn by pycocotools, which few need.
        from vicreg_workers.selfsup.data.dense.instance_masks import instance_masks

        return instance_masks(self._images.objects(index), wide, high)


def view_size(width: int, height: int, image_size: int) -> tuple[int, int]:
    """The width and height of the view of an image, in pixels."""
    short, long = sorted((width, height))
    scale = min(image_size / short, int(image_size * LONGEST) / long)
    return max(1, round(width * scale)), max(1, round(height * scale))


class _Packed(NamedTuple):
    """A batch in few tensors: between processes, each takes a file descriptor."""

    pixels: Tensor
    """uint8: of all views, flat, one after the other."""
    boxes: Tensor
    categories: Tensor
    ignored: Tensor
    masks: Tensor | None
    sizes: list[tuple[int, int, int]]
    """Of each view: height, width, and the number of its objects."""
    unreadable: tuple[int, ...]


def _read(
    dataset: _Dataset, batches: list[list[_Draw]], loaders: int, pinned: bool
) -> Iterator[BoxedBatch]:
    return map(_unpacked, read_batches(dataset, batches, loaders, dataset.bytes, _packed, pinned))


def _packed(samples: list[_Sample]) -> _Packed:
    unreadable = tuple(each for each in samples if isinstance(each, int))
    views = [each for each in samples if isinstance(each, BoxedView)]
    masks = [each.masks.flatten() for each in views if each.masks is not None]
    nothing = [torch.empty(0)]
    return _Packed(
        torch.cat([each.pixels.flatten() for each in views] or nothing),
        torch.cat([each.boxes for each in views] or nothing),
        torch.cat([each.categories for each in views] or nothing),
        torch.cat([each.ignored for each in views] or nothing),
        torch.cat(masks) if masks else None,
        [(*each.pixels.shape[1:], len(each.boxes)) for each in views],
        unreadable,
    )


def _unpacked(packed: _Packed) -> BoxedBatch:
    views = []
    pixel = first = inside = 0
    for high, wide, count in packed.sizes:
        area, last = high * wide, first + count
        masks = None
        if packed.masks is not None:
            masks = packed.masks[inside : inside + count * area].view(count, high, wide)
        views.append(
            BoxedView(
                packed.pixels[pixel : pixel + 3 * area].view(3, high, wide),
                packed.boxes[first:last],
                packed.categories[first:last],
                packed.ignored[first:last],
                masks,
            )
        )
        pixel, first, inside = pixel + 3 * area, last, inside + count * area
    return BoxedBatch(views, packed.unreadable)
