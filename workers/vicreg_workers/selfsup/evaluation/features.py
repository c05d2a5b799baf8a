"""The representations of a set of images."""

from __future__ import annotations

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
    view = PlainView(image_size, interpolation)
    batches = plain_batches(images, view, BATCH_SIZE, loaders, pinned=device.type == "cuda")
    return features_of(backbone, batches, images.labels, device, progress, autocast)


@torch.no_grad()
def features_of(
    backbone: nn.Module,
    batches: Iterable[PlainBatch],
    labels: Sequence[int],
    device: torch.device,
    progress: Callable[[int], None] = lambda done: None,
    autocast: Autocast = nullcontext,
) -> Features:
    """Like ``extract_features``, for batches made by ``plain_batches``.

    Args:
        backbone: images to representations.
        batches: the batches.
        labels: the labels of all images.
        device: where the backbone is and the features will be.
        progress: called with the number of images done.
        autocast: makes the context in which the backbone computes.

    Raises:
        InvalidInput: no image could be read.
    """
    backbone.eval()
    representations: Tensor | None = None
    # Not a list of small tensors, which would keep the memory between them from being used again.
    indices = torch.empty(len(labels), dtype=torch.long)
    done = filled = 0
    corrupt: list[int] = []
    for views, some, unreadable in batches:
        if len(views):
            with autocast():
                made = backbone(normalised(views, device))
            if representations is None:
                representations = _room_for(len(labels), made)
            representations[filled : filled + len(made)] = made
            indices[filled : filled + len(made)] = some
            filled += len(made)
        corrupt += unreadable
        done += len(views) + len(unreadable)
        progress(done)
    if representations is None:
        raise InvalidInput(f"data: none of {done} images can be read")
    passed = indices[:filled]
    return Features(
        representations[:filled],
        torch.tensor(labels, dtype=torch.long)[passed].to(device),
        passed,
        tuple(corrupt),
    )


def _room_for(count: int, made: Tensor) -> Tensor:
    """Memory for representations like ``made``; what is never written to takes none on CPUs."""
    width = made.shape[1]
    dtype = torch.float32 if count * width * 4 <= FLOAT32_BYTES else torch.float16
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
