"""The representations of a set of images."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vicreg_workers.failures import UserFailure
from vicreg_workers.selfsup.images import Images
from vicreg_workers.selfsup.loading import plain_batches
from vicreg_workers.selfsup.views import PlainView

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Features:
    """Representations ``[N, F]`` float32 and labels ``[N]``, on the CPU."""

    representations: Tensor
    labels: Tensor
    corrupt: int
    """Images that could not be read and are left out."""

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.labels.max()) + 1


@torch.no_grad()
def extract_features(
    backbone: nn.Module,
    images: Images,
    image_size: int,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda done, total: None,
    batch_size: int = 256,
) -> Features:
    """Pass every image once through the frozen backbone, in eval mode, without augmentation.

    Raises:
        UserFailure: no image could be read.
    """
    backbone.eval()
    representations, labels = [], []
    done = 0
    for views, batch_labels in plain_batches(images, PlainView(image_size), batch_size, loaders=0):
        if len(views):
            representations.append(backbone(views.to(device)).float().cpu())
            labels.append(batch_labels)
        done = min(done + batch_size, len(images))
        progress(done, len(images))
    if not representations:
        raise UserFailure(f"data: none of {len(images)} images can be read")
    features = torch.cat(representations)
    corrupt = len(images) - len(features)
    if corrupt:
        logger.warning("%d of %d images cannot be read and are left out", corrupt, len(images))
    return Features(features, torch.cat(labels), corrupt)


@torch.no_grad()
def calibrate_batchnorm(
    backbone: nn.Module, images: Images, image_size: int, device: torch.device
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
    for views, _ in plain_batches(images, PlainView(image_size), batch_size=256, loaders=0):
        if len(views) > 1:
            backbone(views.to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    backbone.eval()
