"""Batches for evaluation: every image once, in order, without augmentation."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vicreg_workers.selfsup.data.drawn_batches import in_batches, read_batches
from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.data.transforms import PlainView

PlainBatch = tuple[Tensor, Tensor, tuple[int, ...]]
"""Views uint8 ``[n, 3, S, S]``, their indices ``[n]``, and the indices of unreadable images."""


def plain_batches(
    images: Images,
    transform: PlainView,
    batch_size: int,
    loaders: int,
    pinned: bool = False,
    some: range | None = None,
) -> Iterator[PlainBatch]:
    """Yield images, each once and in order.

    Args:
        images: what to read.
        transform: makes a view of an image.
        batch_size: images per batch, at least 1.
        loaders: processes that read images; with 0, this process reads them.
        pinned: see ``read_batches``.
        some: their indices; default: all.
    """
    return read_batches(
        _PlainDataset(images, transform),
        in_batches(range(len(images)) if some is None else some, batch_size),
        loaders,
        transform.bytes,
        _collate_readable,
        pinned,
    )


class _PlainDataset(Dataset[tuple[Tensor, int] | int]):
    """A view and its index, or the index of an image that cannot be read."""

    def __init__(self, images: Images, transform: PlainView) -> None:
        self._images = images
        self._transform = transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | int:
        try:
            return self._transform(self._images.read(index)), index
        except OSError:
            return index


def _collate_readable(
    samples: list[tuple[Tensor, int] | int],
) -> PlainBatch:
    unreadable = tuple(sample for sample in samples if isinstance(sample, int))
    readable = [sample for sample in samples if not isinstance(sample, int)]
    if not readable:
        return torch.empty(0, dtype=torch.uint8), torch.empty(0, dtype=torch.long), unreadable
    views = torch.stack([view for view, _ in readable])
    return views, torch.tensor([index for _, index in readable]), unreadable
