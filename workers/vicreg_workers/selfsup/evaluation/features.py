"""The representations of a set of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vicreg_workers.selfsup.data.evaluation_batches import PlainBatch, plain_batches
from vicreg_workers.selfsup.data.sources import Images
from vicreg_workers.selfsup.data.transforms import PlainView
from vicreg_workers.selfsup.errors import InvalidInput

BATCH_SIZE = 256


@dataclass(frozen=True)
class Features:
    """Representations ``[N, F]`` float32 and labels ``[N]``, on one device."""

    representations: Tensor
    labels: Tensor
    indices: Tensor
    """Which images they are of, ``[N]``, on the CPU."""
    corrupt: tuple[int, ...]
    """Indices of images that could not be read and are left out."""

    def only(self, which: Tensor) -> Features:
        """Those where ``which``, ``[N]`` of bool, is true."""
        kept = self.representations[which], self.labels[which], self.indices[which]
        return Features(*kept, self.corrupt)


def extract_features(
    backbone: nn.Module,
    images: Images,
    image_size: int,
    device: torch.device,
    loaders: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> Features:
    """Pass every image once through the frozen backbone, in eval mode, without augmentation.

    Args:
        backbone: images to representations.
        images: what to pass.
        image_size: side of a view, in pixels.
        device: where the backbone is and the features will be.
        loaders: processes that read images beside this one.
        progress: called with the number of images passed.

    Raises:
        InvalidInput: no image could be read.
    """
    batches = plain_batches(images, PlainView(image_size), BATCH_SIZE, loaders)
    return features_of(backbone, batches, images.labels, device, progress)


@torch.no_grad()
def features_of(
    backbone: nn.Module,
    batches: Iterable[PlainBatch],
    labels: Sequence[int],
    device: torch.device,
    progress: Callable[[int], None] = lambda done: None,
) -> Features:
    """As ``extract_features``, of the batches that ``plain_batches`` makes.

    Args:
        backbone: images to representations.
        batches: what to pass.
        labels: of all images, by their indices.
        device: where the backbone is and the features will be.
        progress: called with the number of images passed.

    Raises:
        InvalidInput: no image could be read.
    """
    backbone.eval()
    representations, indices = [], []
    done = 0
    corrupt: list[int] = []
    for views, some, unreadable in batches:
        if len(views):
            views = views.to(device, memory_format=torch.channels_last)
            representations.append(backbone(views).float())
            indices.append(some)
        corrupt += unreadable
        done += len(views) + len(unreadable)
        progress(done)
    if not representations:
        raise InvalidInput(f"data: none of {done} images can be read")
    passed = torch.cat(indices)
    return Features(
        torch.cat(representations),
        torch.tensor(labels)[passed].to(device),
        passed,
        tuple(corrupt),
    )


@torch.no_grad()
def calibrate_batchnorm(
    backbone: nn.Module, images: Images, image_size: int, device: torch.device, loaders: int = 0
) -> None:
    """Give an untrained network the BatchNorm statistics of ``images``; weights stay as they are.

    Without them its layers are not normalised at all, and its representations are nearly one
    direction: a baseline that any encoder would beat.
    """
    norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    backbone.train()
    for views, _, _ in plain_batches(images, PlainView(image_size), BATCH_SIZE, loaders):
        if len(views) > 1:
            backbone(views.to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    backbone.eval()
