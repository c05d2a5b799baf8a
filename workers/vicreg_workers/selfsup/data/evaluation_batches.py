"""Batches for evaluation: every image once, in order, without augmentation."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vicreg_workers.selfsup.data.shared_memory import loaders_within
from vicreg_workers.selfsup.data.sources import Images
from vicreg_workers.selfsup.data.transforms import PlainView

PlainBatch = tuple[Tensor, Tensor, tuple[int, ...]]
"""Views uint8 ``[n, 3, S, S]``, their indices ``[n]``, and the indices of unreadable images."""


def plain_batches(
    images: Images, transform: PlainView, batch_size: int, loaders: int
) -> Iterator[PlainBatch]:
    """Yield all images, each once and in order.

    Args:
        images: what to read.
        transform: makes a view of an image.
        batch_size: images per batch, at least 1.
        loaders: processes that read images; with 0, this process reads them.
    """
    return iter(
        DataLoader(
            _PlainDataset(images, transform),
            batch_size=batch_size,
            num_workers=loaders_within(loaders, batch_size * transform.bytes),
            collate_fn=_collate_readable,
            # Its own generator: reading images must not change what is drawn next.
            generator=torch.Generator().manual_seed(0),
        )
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
