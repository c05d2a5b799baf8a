"""Batches of views, and the images that could not be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from vicreg_workers.failures import UserFailure
from vicreg_workers.selfsup.distributed import rank, world_size
from vicreg_workers.selfsup.images import Images

View = TypeVar("View")
MAX_REPLACEMENTS = 100
"""How many broken images in a row are skipped before the data set is given up."""


class Sample(NamedTuple, Generic[View]):
    """One image's view or views, its label, and the images skipped to get there."""

    view: View
    label: int
    skipped: tuple[int, ...]


class ViewDataset(Dataset[Sample[View]]):
    """Reads images and makes views of them.

    An image that cannot be decoded is replaced by the next one that can: every batch keeps its
    size, on every process.
    """

    def __init__(self, images: Images, transform: Callable[..., View]) -> None:
        self.images = images
        self._transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample[View]:
        skipped: list[int] = []
        while True:
            try:
                image = self.images.read(index)
                break
            except OSError as error:
                skipped.append(index)
                index = (index + 1) % len(self.images)
                if len(skipped) >= min(MAX_REPLACEMENTS, len(self.images)):
                    raise UserFailure(
                        f"data: {len(skipped)} images in a row cannot be read, the last being "
                        f"{self.images.name(skipped[-1])}: {error}"
                    ) from None
        return Sample(self._transform(image), self.images.labels[index], tuple(skipped))


class PairBatches:
    """The batches of two views that this process trains on, reshuffled each epoch.

    Args:
        images: all images; each process takes its share.
        transform: an image to its two views.
        batch_size: images a step over all processes; divisible by their number.
        loaders: processes that read images beside the training one (0: none).
        seed: of the shuffling.
        pin_memory: for a faster copy to a GPU.

    Raises:
        UserFailure: there are fewer images than ``batch_size``.
    """

    def __init__(
        self,
        images: Images,
        transform: Callable[..., tuple[Tensor, Tensor]],
        batch_size: int,
        loaders: int,
        seed: int,
        pin_memory: bool,
    ) -> None:
        if len(images) < batch_size:
            raise UserFailure(
                f"data: {len(images)} images are fewer than training.batch_size ({batch_size})"
            )
        dataset = ViewDataset(images, transform)
        self._sampler: DistributedSampler[Sample[tuple[Tensor, Tensor]]] = DistributedSampler(
            dataset, num_replicas=world_size(), rank=rank(), seed=seed, drop_last=True
        )
        self._loader: DataLoader[Sample[tuple[Tensor, Tensor]]] = DataLoader(
            dataset,
            batch_size=batch_size // world_size(),
            sampler=self._sampler,
            num_workers=loaders,
            collate_fn=_collate_pairs,
            drop_last=True,
            pin_memory=pin_memory,
        )

    def __len__(self) -> int:
        """Steps an epoch."""
        return len(self._loader)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, tuple[int, ...]]]:
        """Views ``[n, 3, S, S]`` twice, and the images skipped, for each step of ``epoch``."""
        self._sampler.set_epoch(epoch)
        try:
            yield from self._loader
        except UserFailure as error:
            # A loader process's failure comes with its traceback: its last line is the reason.
            reason = str(error).strip().splitlines()[-1]
            raise UserFailure(reason.rpartition("UserFailure: ")[2]) from None


def plain_batches(
    images: Images, transform: Callable[..., Tensor], batch_size: int, loaders: int
) -> Iterator[tuple[Tensor, Tensor, tuple[int, ...]]]:
    """Views ``[n, 3, S, S]`` and labels ``[n]`` of all readable images, in order.

    Unreadable images are left out; the third item of a batch holds their indices.
    """
    return iter(
        DataLoader(
            _PlainDataset(images, transform),
            batch_size=batch_size,
            num_workers=loaders,
            collate_fn=_collate_readable,
            # Its own generator: to look at images must not change what is drawn next.
            generator=torch.Generator().manual_seed(0),
        )
    )


class _PlainDataset(Dataset[tuple[Tensor, int] | int]):
    """A view and its label, or the index of an image that cannot be read."""

    def __init__(self, images: Images, transform: Callable[..., Tensor]) -> None:
        self._images = images
        self._transform = transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | int:
        try:
            return self._transform(self._images.read(index)), self._images.labels[index]
        except OSError:
            return index


def _collate_pairs(
    samples: list[Sample[tuple[Tensor, Tensor]]],
) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    first = torch.stack([sample.view[0] for sample in samples])
    second = torch.stack([sample.view[1] for sample in samples])
    return first, second, tuple(index for sample in samples for index in sample.skipped)


def _collate_readable(
    samples: list[tuple[Tensor, int] | int],
) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    unreadable = tuple(sample for sample in samples if isinstance(sample, int))
    readable = [sample for sample in samples if not isinstance(sample, int)]
    if not readable:
        return torch.empty(0), torch.empty(0, dtype=torch.long), unreadable
    views = torch.stack([view for view, _ in readable])
    return views, torch.tensor([label for _, label in readable]), unreadable
