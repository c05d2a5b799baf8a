"""Object detection: the encoder is fine-tuned as the backbone of a Faster or Mask R-CNN.

The protocol is the paper's (Appendix C.3), which follows MoCo (facebookresearch/moco,
``detection/``) and Detectron2. What differs is in ``docs/guides/encoders.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vicreg_platform.specs import DetectionProtocol
from vicreg_workers.selfsup.data.dense.boxed_batches import BoxedBatch, BoxedView
from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.selfsup.evaluation.features import Autocast
from vicreg_workers.selfsup.model.precision import compute_in

MOMENTUM = 0.9
EXAMPLES = 8
"""Test images that are kept for a figure."""
THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
"""Of the intersection over union, over which average precision is averaged. torchmetrics would
round them to float32, and then 0.6 is not enough for 0.6."""
MASK_THRESHOLD = 0.5
"""Probability from which a pixel is in a mask (He et al. 2017, section 3)."""
Detections = dict[str, Tensor]
"""Of an image, as torchvision has them: ``boxes`` ``[n, 4]``, ``labels`` ``[n]``, of which 0 is the
background, ``scores`` ``[n]``, and with masks ``masks`` ``[n, 1, h, w]``, probabilities."""


class Schedule(NamedTuple):
    """How the learning rate changes (Appendix C.3), and what the losses weigh."""

    warmup: int
    """Steps in which it rises; at most a tenth of all."""
    start: float
    """Where it starts, as a share of its peak."""
    drops: tuple[float, float]
    """After which shares of the steps it is divided by 10."""
    proposal_weight: float
    """Of the losses of the proposals, beside those of the heads."""

    def factor(self, step: int, steps: int) -> float:
        """The learning rate of a step, as a share of its peak."""
        warmup = min(self.warmup, steps // 10)
        if step < warmup:
            return self.start + (1 - self.start) * step / warmup
        return float(0.1 ** sum(step >= drop * steps for drop in self.drops))


SCHEDULES = {
    # 90,000 steps, with drops after 60,000 and 80,000. Where the rise starts is Detectron2's.
    "fpn": Schedule(50, 0.001, (60 / 90, 80 / 90), 1.0),
    # 24,000 steps, with drops after 18,000 and 22,000.
    "c4": Schedule(1000, 0.333, (18 / 24, 22 / 24), 0.2),
}


class DetectionExample(NamedTuple):
    """A test image, on the CPU."""

    truth: BoxedView
    found: Detections
    """``masks`` are bool ``[n, h, w]``."""


class DetectionResult(NamedTuple):
    """How well objects are found in the test images."""

    boxes: dict[str, float]
    """``ap``, ``ap50`` and ``ap75``, in [0, 1]."""
    masks: dict[str, float] | None
    """The same for masks, if they are predicted."""
    examples: list[DetectionExample]
    corrupt: tuple[int, ...]
    """Indices of unreadable images, which are left out."""


def train_detector(
    backbone: nn.Module,
    batches: Iterable[BoxedBatch],
    steps: int,
    classes: int,
    protocol: DetectionProtocol,
    device: torch.device,
    progress: Callable[[int], None] = lambda done: None,
    autocast: Autocast = nullcontext,
) -> tuple[nn.Module, tuple[int, ...]]:
    """Train a detector, and the backbone with it.

    All of it is trained, BatchNorm included: one process sees the whole batch, as MoCo's
    synchronised BatchNorm does.

    Args:
        backbone: on ``device``; its weights change.
        batches: views and objects, over all epochs.
        steps: how many batches there are.
        classes: how many there are, without the background.
        protocol: head, rates, decay, seed.
        device: where the detector will be.
        progress: called with the number of images done.
        autocast: makes the context in which the backbone and the heads of the boxes compute. The
            boxes themselves are in float32: bfloat16 would round their corners to even pixels.

    Returns:
        The detector, in eval mode; and the indices of the images that could not be read.

    Raises:
        InvalidInput: the backbone is not a residual network, no batch has two images that can be
            read, or a loss is not finite.
    """
    # Imported here: torchvision's detection code takes a while, and only this protocol needs it.
    from vicreg_workers.selfsup.model.detector import build_detector

    torch.manual_seed(protocol.seed)
    network = build_detector(backbone, classes, protocol.head, protocol.masks).to(device).train()
    for part in (network.backbone, network.roi_heads.box_head):
        compute_in(part, autocast)
    optimizer = torch.optim.SGD(
        _groups(network, protocol.weight_decay),
        lr=protocol.learning_rate,
        momentum=MOMENTUM,
        fused=True,
    )
    schedule = SCHEDULES[protocol.head]
    corrupt: set[int] = set()
    done = trained = 0
    for step, (views, unreadable) in enumerate(batches):
        corrupt.update(unreadable)
        done += len(views) + len(unreadable)
        # BatchNorm cannot normalise a single image whose map has one place.
        if len(views) > 1:
            trained += len(views)
            for group in optimizer.param_groups:
                group["lr"] = protocol.learning_rate * schedule.factor(step, steps)
            losses = network(_images(views, device), [_target(each, device) for each in views])
            loss = sum(
                each * (schedule.proposal_weight if name in PROPOSAL_LOSSES else 1.0)
                for name, each in losses.items()
            )
            if not loss.isfinite():
                raise InvalidInput(
                    f"protocol detection: the loss of step {step} is not finite: the encoder's "
                    "weights are broken, or the learning rate is too high: lower "
                    "protocol.learning_rate"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        progress(done)
    if not trained:
        raise InvalidInput(
            f"data.train: no batch has two images that can be read, and {len(corrupt)} cannot: "
            "correct them, or use other images"
        )
    return network.eval(), tuple(sorted(corrupt))


PROPOSAL_LOSSES = ("loss_objectness", "loss_rpn_box_reg")
"""torchvision's names."""


@torch.no_grad()
def measure_detection(
    network: nn.Module,
    batches: Iterable[BoxedBatch],
    masks: bool,
    device: torch.device,
    progress: Callable[[int], None] = lambda done: None,
) -> DetectionResult:
    """Find the objects of the test images.

    Average precision is COCO's. Objects that are to be ignored are its crowds: what lies in one is
    no false positive.

    Args:
        network: a detector, in eval mode: from a list of images to a list of ``Detections``.
        batches: views and objects.
        masks: whether masks are measured too.
        device: where the network is.
        progress: called with the number of images done.

    Raises:
        InvalidInput: no image could be read, or none has an object.
    """
    # Imported here: it takes two seconds, and only this protocol needs it.
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(
        iou_type=("bbox", "segm") if masks else "bbox", iou_thresholds=list(THRESHOLDS)
    )
    # What is beyond 100 detections is ignored, in COCO's metric too.
    metric.warn_on_many_detections = False
    examples: list[DetectionExample] = []
    corrupt: list[int] = []
    done = counted = 0
    for views, unreadable in batches:
        corrupt += unreadable
        done += len(views) + len(unreadable)
        # One by one: an image's masks, at its own size, take much memory.
        for view in views:
            (found,) = network(_images([view], device))
            found = {name: each.cpu() for name, each in found.items()}
            if masks:
                found["masks"] = found["masks"][:, 0] > MASK_THRESHOLD
            metric.update([found], [_truth(view)])
            counted += int((~view.ignored).sum())
            if len(examples) < EXAMPLES:
                examples.append(DetectionExample(view, found))
        progress(done)
    if not examples:
        raise InvalidInput(f"data.test: none of {len(corrupt)} images can be read")
    if not counted:
        raise InvalidInput("data.test: its images have no objects")
    values = metric.compute()
    return DetectionResult(
        _precisions(values, "bbox_" if masks else ""),
        _precisions(values, "segm_") if masks else None,
        examples,
        tuple(corrupt),
    )


def _groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with and without weight decay (Detectron2's ``WEIGHT_DECAY_NORM`` is 0)."""
    norms = {
        parameter
        for module in network.modules()
        if isinstance(module, _BatchNorm)
        for parameter in module.parameters()
    }
    others = [parameter for parameter in network.parameters() if parameter not in norms]
    return [
        {"params": others, "weight_decay": weight_decay},
        {"params": list(norms), "weight_decay": 0.0},
    ]


def _images(views: Iterable[BoxedView], device: torch.device) -> list[Tensor]:
    return [view.pixels.to(device, non_blocking=True).float().div_(255) for view in views]


def _target(view: BoxedView, device: torch.device) -> dict[str, Tensor]:
    """The objects that are trained on, as torchvision wants them."""
    kept = ~view.ignored
    target = {"boxes": view.boxes[kept], "labels": view.categories[kept] + 1}
    if view.masks is not None:
        target["masks"] = view.masks[kept]
    return {name: each.to(device) for name, each in target.items()}


def _truth(view: BoxedView) -> dict[str, Tensor]:
    """All objects, as torchmetrics wants them."""
    truth = {
        "boxes": view.boxes,
        "labels": view.categories + 1,
        "iscrowd": view.ignored.long(),
    }
    if view.masks is not None:
        truth["masks"] = view.masks.bool()
    return truth


def _precisions(values: dict[str, Tensor], prefix: str) -> dict[str, float]:
    names = {"ap": "map", "ap50": "map_50", "ap75": "map_75"}
    return {name: float(values[f"{prefix}{key}"]) for name, key in names.items()}
