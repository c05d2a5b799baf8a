"""Semantic segmentation by a linear head on an encoder's feature map.

The protocol is VICRegL's (Bardes et al. 2022, arXiv 2210.01571; facebookresearch/VICRegL,
``segmentation/``). Theirs drops out a tenth of a ResNet's features, and distorts colours; this one
does neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vicreg_platform.specs import SegmentationProtocol
from vicreg_workers.selfsup.data.dense.masked_batches import MaskedBatch
from vicreg_workers.selfsup.data.dense.masked_images import IGNORED
from vicreg_workers.selfsup.data.transforms import normalised
from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.selfsup.evaluation.features import Autocast
from vicreg_workers.selfsup.model.feature_map import FeatureMap

MOMENTUM = 0.9
POWER = 0.9
"""Of the fall of the learning rate (mmsegmentation, ``schedule_40k.py``: ``power=0.9``)."""
HEAD_STD = 0.01
"""Standard deviation of the head's initial weights (mmsegmentation, ``decode_head.py``)."""
EXAMPLES = 8
"""Test images that are kept for a figure."""


class SegmentationExamples(NamedTuple):
    """Some test images, on the CPU."""

    views: Tensor
    """uint8 ``[n, 3, S, S]``."""
    masks: Tensor
    """``[n, S, S]``: classes, or ``IGNORED``."""
    predictions: Tensor
    """``[n, S, S]``: classes."""


class SegmentationResult(NamedTuple):
    """How well the test images are segmented."""

    miou: float
    """Mean intersection over union of the classes that are in a mask or predicted, in [0, 1]."""
    pixel_accuracy: float
    """Share of the pixels with a class that are classified correctly."""
    examples: SegmentationExamples
    corrupt: tuple[int, ...]
    """Indices of unreadable images, which are left out."""


def segmentation_head(width: int, classes: int) -> nn.Module:
    """BatchNorm, and a linear classifier of each place of a map ``[N, width, h, w]``."""
    classifier = nn.Conv2d(width, classes, kernel_size=1)
    assert classifier.bias is not None
    nn.init.normal_(classifier.weight, std=HEAD_STD)
    nn.init.zeros_(classifier.bias)
    return nn.Sequential(nn.BatchNorm2d(width), classifier)


def train_segmentation(
    encoder: FeatureMap,
    batches: Iterable[MaskedBatch],
    steps: int,
    classes: int,
    protocol: SegmentationProtocol,
    device: torch.device,
    progress: Callable[[int], None] = lambda done: None,
    autocast: Autocast = nullcontext,
) -> tuple[nn.Module, tuple[int, ...]]:
    """Train a head on the encoder's map, and the encoder too if the protocol does not freeze it.

    Args:
        encoder: on ``device``; not frozen, its weights change.
        batches: views and masks, over all epochs.
        steps: how many batches there are.
        classes: C.
        protocol: rates, decay, seed.
        device: where the head will be.
        progress: called with the number of images done.
        autocast: makes the context in which the network computes.

    Returns:
        The network, from images ``[N, 3, S, S]`` to logits ``[N, C, h, w]``, in eval mode; and the
        indices of the images that could not be read.

    Raises:
        InvalidInput: no image could be read.
    """
    torch.manual_seed(protocol.seed)
    head = segmentation_head(encoder.width, classes).to(device).train()
    encoder.train(not protocol.frozen)
    parts = [(head, protocol.learning_rate)]
    if not protocol.frozen:
        parts.append((encoder, protocol.backbone_lr))
    optimizer = torch.optim.SGD(
        [{"params": list(part.parameters()), "lr": rate} for part, rate in parts],
        momentum=MOMENTUM,
        weight_decay=protocol.weight_decay,
        fused=True,
    )
    corrupt: set[int] = set()
    done = trained = 0
    for step, (views, masks, unreadable) in enumerate(batches):
        corrupt.update(unreadable)
        done += len(views) + len(unreadable)
        if len(views):
            trained += len(views)
            for group, (_, rate) in zip(optimizer.param_groups, parts, strict=True):
                group["lr"] = rate * (1 - step / steps) ** POWER
            with autocast():
                with torch.no_grad() if protocol.frozen else nullcontext():
                    maps = encoder(normalised(views, device))
                small = head(maps)
            logits = _upsampled(small.float(), views.shape[-1])
            loss = _cross_entropy(logits, masks.to(device, non_blocking=True).long())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        progress(done)
    if not trained:
        raise InvalidInput(f"data.train: none of {len(corrupt)} images can be read with its mask")
    return nn.Sequential(encoder, head).eval(), tuple(sorted(corrupt))


@torch.no_grad()
def measure_segmentation(
    network: nn.Module,
    batches: Iterable[MaskedBatch],
    classes: int,
    device: torch.device,
    progress: Callable[[int], None] = lambda done: None,
    autocast: Autocast = nullcontext,
) -> SegmentationResult:
    """Classify each pixel of the test images.

    Args:
        network: from images ``[N, 3, S, S]`` to logits ``[N, C, h, w]``, in eval mode.
        batches: views and masks.
        classes: C.
        device: where the network is.
        progress: called with the number of images done.
        autocast: makes the context in which the network computes.

    Raises:
        InvalidInput: no image could be read, no pixel has a class, or the logits are not finite.
    """
    # Imported here: it takes two seconds, and only this protocol needs it.
    from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

    options: dict[str, Any] = {
        "num_classes": classes,
        "ignore_index": IGNORED,
        "validate_args": False,
    }
    iou = MulticlassJaccardIndex(average="macro", **options).to(device)
    accuracy = MulticlassAccuracy(average="micro", **options).to(device)
    examples: list[tuple[Tensor, Tensor, Tensor]] = []
    corrupt: list[int] = []
    done, labelled = 0, torch.zeros((), dtype=torch.long, device=device)
    for views, masks, unreadable in batches:
        corrupt += unreadable
        done += len(views) + len(unreadable)
        with autocast():
            logits = network(normalised(views, device)).float() if len(views) else ()
        # One by one: at the size of the image, the logits of many classes take much memory.
        for view, mask, small in zip(views, masks, logits, strict=True):
            if not small.isfinite().all():
                raise InvalidInput(
                    "protocol segmentation: the logits are not finite: the encoder's weights are "
                    "broken, or the learning rate is too high: lower protocol.learning_rate"
                )
            predicted = _upsampled(small[None], view.shape[-1]).argmax(dim=1)
            truth = mask[None].to(device).long()
            iou.update(predicted, truth)
            accuracy.update(predicted, truth)
            labelled += (truth != IGNORED).sum()
            if len(examples) < EXAMPLES:
                examples.append((view, mask, predicted[0].cpu()))
        progress(done)
    if not examples:
        raise InvalidInput(f"data.test: none of {len(corrupt)} images can be read with its mask")
    if not labelled:
        raise InvalidInput("data.test: no pixel of its masks has a class")
    return SegmentationResult(
        float(iou.compute()),
        float(accuracy.compute()),
        SegmentationExamples(*(torch.stack(each) for each in zip(*examples, strict=True))),
        tuple(corrupt),
    )


def _upsampled(logits: Tensor, size: int) -> Tensor:
    return functional.interpolate(logits, size=(size, size), mode="bilinear")


def _cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Averaged over the pixels with a class; 0 if there are none, as a crop may have none."""
    total = functional.cross_entropy(logits, masks, ignore_index=IGNORED, reduction="sum")
    return total / (masks != IGNORED).sum().clamp_min(1)
