"""Crops of images that are read and decoded when needed, by processes beside the training's."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vicreg_platform.specs import Augmentation
from vicreg_platform.specs.data import Interpolation
from vicreg_workers.selfsup.data.decoding import AnyPicture
from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.data.random_parameters import (
    CropDraws,
    draw_crops,
    draw_flips,
    generator_for,
)
from vicreg_workers.selfsup.data.shared_memory import InFlight
from vicreg_workers.selfsup.data.steps import Chosen, Cropped
from vicreg_workers.selfsup.errors import InvalidInput, SelfsupError

MAX_REPLACEMENTS = 100
"""Unreadable images in a row after which the training gives up."""
_ANTIALIASED = {
    "bicubic": torch.ops.aten._upsample_bicubic2d_aa.out,
    "bilinear": torch.ops.aten._upsample_bilinear2d_aa.out,
}
"""What ``torch.nn.functional.interpolate`` calls with ``antialias=True``."""
NEIGHBOURS = 3
"""Images after an unreadable one that are tried before others far away."""
REDUCING_GAP = 2.0
"""How many pixels of a reduced image each pixel of a view has at least, along each side: with two,
Pillow's documentation calls the result of ``reducing_gap`` close to that of the whole image."""

Read = TypeVar("Read")
Made = tuple[tuple[Tensor, ...], list[int], tuple[int, ...], Tensor]
"""Views uint8 ``[n, 3, S, S]``, S being the side of each; the images they come from; the unreadable
ones; and the boxes of ``Cropped``."""
Boxes = list[list[int]]
"""Top, left, height and width of the crop for each view of an image; for a view that is made, 1 too
if it is mirrored, else 0."""


class ReadCrops:
    """Crops of images that are read when needed.

    Args:
        images: what to read.
        spec: how crops are drawn and resized.
        device: where the crops go.
        ahead: processes that read images, and the batches of each.
        interpolation: how crops are resized.
    """

    held_bytes = 0

    def __init__(
        self,
        images: Images,
        spec: Augmentation,
        device: torch.device,
        ahead: InFlight,
        interpolation: Interpolation,
    ) -> None:
        self._device = device
        self._sampler = _Sampler()
        kind = _TorchCrops if spec.resample == "torch" else _PillowCrops
        self.cropped = kind(images, spec, interpolation)
        """The data set that loader processes read: the crops of a step of this worker."""
        self._loader: DataLoader[Made] = DataLoader(
            self.cropped,
            sampler=self._sampler,
            batch_size=None,
            num_workers=ahead.loaders,
            prefetch_factor=ahead.batches,
            # They start once, not at every epoch.
            persistent_workers=ahead.loaders > 0,
            pin_memory=device.type == "cuda",
            # Its own generator: a loader would draw a seed from the global one when it starts.
            generator=torch.Generator().manual_seed(0),
        )

    def of(self, steps: Iterable[Chosen]) -> Iterator[Cropped]:
        """See ``Crops``."""
        self._sampler.steps = steps
        try:
            for pixels, indices, skipped, boxes in self._loader:
                moved = (view.to(self._device, non_blocking=True) for view in pixels)
                floats = (
                    view.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
                    for view in moved
                )
                yield Cropped(tuple(floats), indices, skipped, boxes)
        except SelfsupError as error:
            # A loader process's error carries its traceback as text; the last line is the reason.
            reason = str(error).strip().splitlines()[-1]
            # The frames would keep the loader and its processes alive until the next collection.
            error.__traceback__ = None
            kind = type(error)
            raise kind(reason.rpartition(f"{kind.__name__}: ")[2]) from None


class _Sampler:
    """What each step needs, for a loader's ``sampler``."""

    steps: Iterable[Chosen] = ()

    def __iter__(self) -> Iterator[Chosen]:
        return iter(self.steps)


class _TorchCrops(Dataset[Made]):
    """Decodes by libjpeg-turbo and resizes bytes by torch, a whole step at a time."""

    def __init__(
        self,
        images: Images,
        spec: Augmentation,
        interpolation: Interpolation,
    ) -> None:
        self._images = images
        self._spec = spec
        self._resize = _ANTIALIASED[interpolation]

    def __getitem__(self, chosen: Chosen) -> Made:
        generator, count = generator_for(*chosen.key), len(chosen.indices)
        draws: list[CropDraws] = []
        flips: list[Tensor] = []
        for number in range(len(chosen.sides)):
            # Drawn for the global batch: the same whichever process makes this part of it.
            drawn = draw_crops(self._spec, chosen.total, generator, number)
            draws.append(drawn.rows(chosen.first, count))
            flips.append(draw_flips(self._spec, chosen.total, generator)[chosen.first :][:count])
        views = tuple(_empty(count, side) for side in chosen.sides)
        opened = deque(
            read_or_next(self._images, index, self._images.open) for index in chosen.indices
        )
        boxes = _boxes(draws, [picture for picture, _, _ in opened])
        used: list[int] = []
        unreadable: list[int] = []
        for place in range(count):
            # Let go of one by one: a picture keeps its pixels once they are decoded.
            picture, index, skipped = opened.popleft()
            unreadable += skipped
            targets = [view[place] for view in views]
            try:
                self._fill(picture, boxes[place], targets)
            except OSError:
                own = [each.rows(place, 1) for each in draws]
                replace = partial(self._open_and_fill, own, targets)
                boxes[place], index, more = read_or_next(self._images, index, replace)
                unreadable += more
            used.append(index)
            for target, mirrored in zip(targets, flips, strict=True):
                if mirrored[place]:
                    target.copy_(target.flip(2))
        shown = torch.cat([torch.tensor(boxes), torch.stack(flips, dim=1)[:, :, None]], dim=2)
        return views, used, tuple(unreadable), shown

    def _open_and_fill(
        self, draws: list[CropDraws], targets: Sequence[Tensor], index: int
    ) -> Boxes:
        picture = self._images.open(index)
        boxes = _boxes(draws, [picture])[0]
        self._fill(picture, boxes, targets)
        return boxes

    def _fill(self, picture: AnyPicture, boxes: Boxes, targets: Sequence[Tensor]) -> None:
        # One decode for all views, as fine as the one that needs it finest.
        reduction = min(
            min(height, width) / target.shape[-1]
            for (_, _, height, width), target in zip(boxes, targets, strict=True)
        )
        pixels = picture.pixels(max(1.0, reduction / REDUCING_GAP))
        down, across = pixels.shape[1] / picture.height, pixels.shape[2] / picture.width
        for (top, left, height, width), target in zip(boxes, targets, strict=True):
            rows = slice(round(top * down), max(round((top + height) * down), 1))
            columns = slice(round(left * across), max(round((left + width) * across), 1))
            size = list(target.shape[-2:])
            # ``interpolate`` itself would write elsewhere, and a copy costs half as much again.
            self._resize(pixels[None, :, rows, columns], size, False, out=target[None])


def _empty(count: int, side: int) -> Tensor:
    """Room for a view of ``count`` images, channels last."""
    return torch.empty(count, side, side, 3, dtype=torch.uint8).permute(0, 3, 1, 2)


def _boxes(draws: list[CropDraws], pictures: Sequence[AnyPicture]) -> list[Boxes]:
    """For each picture, the crop of each view."""
    heights = torch.tensor([picture.height for picture in pictures])
    widths = torch.tensor([picture.width for picture in pictures])
    crops = torch.stack([each.boxes(heights, widths) for each in draws], dim=1)
    boxes: list[Boxes] = crops.tolist()
    return boxes


class _PillowCrops(Dataset[Made]):
    """Decodes and resizes by Pillow, image by image, as versions before 0.3.0 did."""

    def __init__(
        self,
        images: Images,
        spec: Augmentation,
        interpolation: Interpolation,
    ) -> None:
        self._images = images
        self._spec = spec
        self._filter = Image.Resampling[interpolation.upper()]

    def __getitem__(self, chosen: Chosen) -> Made:
        made = [
            self._crops(index, (*chosen.key, chosen.first + place), chosen.sides)
            for place, index in enumerate(chosen.indices)
        ]
        views = tuple(torch.stack(view) for view in zip(*(each[0] for each in made), strict=True))
        skipped = tuple(index for each in made for index in each[2])
        boxes = torch.tensor([each[3] for each in made])
        return views, [each[1] for each in made], skipped, boxes

    def _crops(
        self, index: int, key: tuple[int, ...], sides: tuple[int, ...]
    ) -> tuple[list[Tensor], int, tuple[int, ...], Boxes]:
        image, index, skipped = read_or_next(self._images, index, self._images.read)
        high, wide = torch.tensor([image.height]), torch.tensor([image.width])
        generator = generator_for(*key)
        views, boxes = [], []
        for number, side in enumerate(sides):
            drawn = draw_crops(self._spec, 1, generator, number).boxes(high, wide)
            top, left, height, width = drawn[0].tolist()
            box = (left, top, left + width, top + height)
            view = image.crop(box).resize((side, side), self._filter)
            mirrored = bool(draw_flips(self._spec, 1, generator).item())
            boxes.append([top, left, height, width, int(mirrored)])
            if mirrored:
                view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            views.append(torch.from_numpy(np.array(view)).permute(2, 0, 1))
        return views, index, skipped, boxes


def read_or_next(
    images: Images, index: int, read: Callable[[int], Read]
) -> tuple[Read, int, tuple[int, ...]]:
    """Read image ``index``, or the next one that can be read, so that batches keep their size.

    Args:
        images: where it lies.
        index: which image.
        read: reads an image; raises OSError if it cannot.

    Returns:
        What was read, its index, and the indices of the unreadable ones before it.

    Raises:
        InvalidInput: too many in a row cannot be read.
    """
    skipped: list[int] = []
    reason = ""
    for candidate in candidates(index, len(images)):
        try:
            return read(candidate), candidate, tuple(skipped)
        except OSError as error:
            skipped.append(candidate)
            reason = str(error)
    raise InvalidInput(
        f"data: {len(skipped)} images in a row cannot be read, the last being "
        f"{images.name(skipped[-1])}: {reason}"
    )


def candidates(index: int, count: int) -> Iterator[int]:
    """Image ``index`` of ``count`` and those that may replace it, in order.

    First come its neighbours, then images far apart: a lost shard holds thousands in a row.
    """
    stride = max(1, count // MAX_REPLACEMENTS)
    for number in range(min(MAX_REPLACEMENTS, count)):
        yield (index + min(number, NEIGHBOURS) + max(0, number - NEIGHBOURS) * stride) % count
