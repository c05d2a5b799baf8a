"""The representations of a set of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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


@dataclass(frozen=True)
class Features:
    """Representations ``[N, F]`` float32 and labels ``[N]``, on one device."""

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


def extract_features(
    backbone: nn.Module,
    images: Images,
    image_size: int,
    device: torch.device,
    loaders: int = 0,
    progress: Callable[[int], None] = lambda done: None,
    interpolation: Interpolation = "bicubic",
) -> Features:
    """Compute the representation of every image, in eval mode, without augmentation.

    Args:
        backbone: images to representations.
        images: the images.
        image_size: side of a view, in pixels.
        device: where the backbone is and the features will be.
        loaders: processes that read images; with 0, this process reads them.
        progress: called with the number of images done.
        interpolation: how images are resized.

    Raises:
        InvalidInput: no image could be read.
    """
    batches = plain_batches(images, PlainView(image_size, interpolation), BATCH_SIZE, loaders)
    return features_of(backbone, batches, images.labels, device, progress)


@torch.no_grad()
def features_of(
    backbone: nn.Module,
    batches: Iterable[PlainBatch],
    labels: Sequence[int],
    device: torch.device,
    progress: Callable[[int], None] = lambda done: None,
) -> Features:
    """Like ``extract_features``, for batches made by ``plain_batches``.

    Args:
        backbone: images to representations.
        batches: the batches.
        labels: the labels of all images.
        device: where the backbone is and the features will be.
        progress: called with the number of images done.

    Raises:
        InvalidInput: no image could be read.
    """
    backbone.eval()
    representations, indices = [], []
    done = 0
    corrupt: list[int] = []
    for views, some, unreadable in batches:
        if len(views):
            representations.append(backbone(normalised(views, device)).float())
            indices.append(some)
        corrupt += unreadable
        done += len(views) + len(unreadable)
        progress(done)
    if not representations:
        raise InvalidInput(f"data: none of {done} images can be read")
    passed = torch.cat(indices)
    return Features(
        torch.cat(representations),
        torch.tensor(labels, dtype=torch.long)[passed].to(device),
        passed,
        tuple(corrupt),
    )


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
    for views, _, _ in plain_batches(images, view, BATCH_SIZE, loaders):
        if len(views) > 1:
            backbone(normalised(views, device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    backbone.eval()
