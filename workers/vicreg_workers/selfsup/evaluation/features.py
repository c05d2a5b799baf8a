"""The representations of a set of images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vicreg_platform.specs.data import Interpolation
from vicreg_workers.selfsup.data.evaluation_batches import PlainBatch, plain_batches
from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.data.transforms import PlainView, normalised
from vicreg_workers.selfsup.distributed import gather_objects, rank, rows_on_first, world_size
from vicreg_workers.selfsup.errors import InvalidInput

BATCH_SIZE = 256
FLOAT32_BYTES = 2**30
"""Representations that would take more in float32 are kept in float16: ImageNet's 1.28 million of
2,048 numbers in 5.2 GB."""
CHUNK = 2**14
"""Representations that are computed with at once: 134 MB in float32, with 2,048 numbers each."""

Autocast = Callable[[], AbstractContextManager[object]]
"""Makes the context in which a network computes."""


@dataclass(frozen=True)
class Features:
    """Representations ``[N, F]`` float32 or float16, and labels ``[N]``, on one device."""

    representations: Tensor
    labels: Tensor
    indices: Tensor
    """The index of each image, ``[N]``, on the CPU."""
    corrupt: tuple[int, ...]
    """Indices of unreadable images, which are left out."""

    def only(self, which: Tensor) -> Features:
        """The features for which ``which``, ``[N]`` of bool, is true."""
        kept = self.representations[which], self.labels[which], self.indices[which]
        return Features(*kept, self.corrupt)

    def problem(self) -> str | None:
        """Why the representations cannot be used, or None. Waits for the device."""
        if all(bool(chunk.isfinite().all()) for chunk in chunks(self.representations)):
            return None
        if self.representations.dtype == torch.float32:
            return "the encoder's representations are not finite: its weights are broken"
        return (
            "the encoder's representations are not finite in float16, in which so many are kept: "
            "its weights are broken, or numbers beyond 65504 need a norm at the encoder's end"
        )


def chunks(representations: Tensor) -> Iterator[Tensor]:
    """All rows of ``[N, F]`` in order, at most ``CHUNK`` at once, in float32."""
    return (chunk.float() for chunk in torch.split(representations, CHUNK))


def extract_features(
    backbone: nn.Module,
    images: Images,
    image_size: int,
    device: torch.device,
    loaders: int = 0,
    progress: Callable[[int], None] = lambda done: None,
    interpolation: Interpolation = "bicubic",
    autocast: Autocast = nullcontext,
) -> Features:
    """Compute the representation of every image, in eval mode, without augmentation.

    They take their own memory and that of a few batches, once.

    Args:
        backbone: images to representations.
        images: the images.
        image_size: side of a view, in pixels.
        device: where the backbone is and the features will be.
        loaders: processes that read images; with 0, this process reads them.
        progress: called with the number of images done.
        interpolation: how images are resized.
        autocast: makes the context in which the backbone computes.

    Raises:
        InvalidInput: no image could be read.
    """
    every = range(len(images))
    return _readable(
        _computed(
            backbone,
            _batches(images, image_size, device, loaders, interpolation, every),
            images.labels,
            len(every),
            device,
            progress,
            autocast,
        )
    )


def extract_together(
    backbone: nn.Module,
    images: Images,
    image_size: int,
    device: torch.device,
    loaders: int = 0,
    progress: Callable[[int], None] = lambda done: None,
    interpolation: Interpolation = "bicubic",
    autocast: Autocast = nullcontext,
) -> Features:
    """Like ``extract_features``, by all processes: each one computes an equal part.

    The parts are whole batches, so that the result is the one of a single process.

    Args:
        backbone: see ``extract_features``.
        images: see ``extract_features``.
        image_size: see ``extract_features``.
        device: of this process.
        loaders: of each process.
        progress: called with the number of images done by all, if they are equally fast.
        interpolation: see ``extract_features``.
        autocast: see ``extract_features``.

    Returns:
        On the first process, the features of all images; on each other, those of its part.

    Raises:
        InvalidInput: on every process, if no image could be read.
    """
    count, mine = len(images), _part_of_process(len(images))
    part = _computed(
        backbone,
        _batches(images, image_size, device, loaders, interpolation, mine),
        images.labels,
        len(mine),
        device,
        lambda done: progress(round(done / len(mine) * count)),
        autocast,
    )
    return _gathered(part, images.labels)


def _part_of_process(count: int) -> range:
    """The images of this process: as many whole batches as each other has, or one more."""
    batches = math.ceil(count / BATCH_SIZE)
    first, end = (batches * (rank() + more) // world_size() for more in (0, 1))
    return range(first * BATCH_SIZE, min(count, end * BATCH_SIZE))


def _gathered(part: Features, labels: Sequence[int]) -> Features:
    """See ``extract_together``."""
    rows = part.representations
    parts = gather_objects((rows.shape, rows.dtype, part.indices, part.corrupt))
    # A process that could read nothing knows neither width nor type.
    (_, width), dtype = max(
        ((shape, dtype) for shape, dtype, *_ in parts), key=lambda each: each[0]
    )
    counts = [len(indices) for _, _, indices, _ in parts]
    corrupt = tuple(index for *_, some in parts for index in some)
    if not sum(counts):
        raise _unreadable(len(corrupt))
    if not len(rows):
        rows = rows.new_empty(0, width, dtype=dtype)
    rows = rows_on_first(rows, counts)
    if rank() > 0:
        return part
    indices = torch.cat([indices for _, _, indices, _ in parts])
    return _labelled(rows, indices, labels, corrupt)


def features_of(
    backbone: nn.Module,
    batches: Iterable[PlainBatch],
    labels: Sequence[int],
    device: torch.device,
) -> Features:
    """Like ``extract_features``, for batches made by ``plain_batches``.

    Args:
        backbone: images to representations.
        batches: the batches.
        labels: the labels of all images.
        device: where the backbone is and the features will be.

    Raises:
        InvalidInput: no image could be read.
    """
    return _readable(_computed(backbone, batches, labels, len(labels), device))


def _readable(features: Features) -> Features:
    if not len(features.labels):
        raise _unreadable(len(features.corrupt))
    return features


def _unreadable(count: int) -> InvalidInput:
    return InvalidInput(f"data: none of {count} images can be read")


def _batches(
    images: Images,
    image_size: int,
    device: torch.device,
    loaders: int,
    interpolation: Interpolation,
    some: range,
) -> Iterator[PlainBatch]:
    view = PlainView(image_size, interpolation)
    return plain_batches(images, view, BATCH_SIZE, loaders, device.type == "cuda", some)


@torch.no_grad()
def _computed(
    backbone: nn.Module,
    batches: Iterable[PlainBatch],
    labels: Sequence[int],
    count: int,
    device: torch.device,
    progress: Callable[[int], None] = lambda done: None,
    autocast: Autocast = nullcontext,
) -> Features:
    """The features of the images in some batches: of at most ``count``, maybe of none."""
    backbone.eval()
    representations: Tensor | None = None
    # Not a list of small tensors, which would keep the memory between them from being used again.
    indices = torch.empty(count, dtype=torch.long)
    done = filled = 0
    corrupt: list[int] = []
    for views, some, unreadable in batches:
        if len(views):
            with autocast():
                made = backbone(normalised(views, device))
            if representations is None:
                representations = _room_for(count, made, len(labels))
            representations[filled : filled + len(made)] = made
            indices[filled : filled + len(made)] = some
            filled += len(made)
        corrupt += unreadable
        done += len(views) + len(unreadable)
        progress(done)
    if representations is None:
        representations = torch.empty(0, 0, device=device)
    return _labelled(representations[:filled], indices[:filled], labels, tuple(corrupt))


def _labelled(
    representations: Tensor, indices: Tensor, labels: Sequence[int], corrupt: tuple[int, ...]
) -> Features:
    own = torch.tensor(labels, dtype=torch.long)[indices].to(representations.device)
    return Features(representations, own, indices, corrupt)


def _room_for(count: int, made: Tensor, of: int) -> Tensor:
    """Memory for ``count`` representations like ``made``, in the type of ``of`` in all.

    What is never written to takes none on CPUs.
    """
    width = made.shape[1]
    dtype = torch.float32 if of * width * 4 <= FLOAT32_BYTES else torch.float16
    return torch.empty(count, width, dtype=dtype, device=made.device)


@torch.no_grad()
def calibrate_batchnorm(
    backbone: nn.Module,
    images: Images,
    image_size: int,
    device: torch.device,
    loaders: int = 0,
    interpolation: Interpolation = "bicubic",
) -> None:
    """Set an untrained network's BatchNorm statistics to those of ``images``. Weights stay.

    Without them, its layers are not normalised and its representations point in nearly one
    direction: a baseline that any encoder beats.
    """
    norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    backbone.train()
    view = PlainView(image_size, interpolation)
    for views, _, _ in plain_batches(
        images, view, BATCH_SIZE, loaders, pinned=device.type == "cuda"
    ):
        if len(views) > 1:
            backbone(normalised(views, device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    backbone.eval()
