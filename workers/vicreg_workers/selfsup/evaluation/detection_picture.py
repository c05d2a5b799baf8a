"""A figure of images, their objects and what was found in them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms.functional import resize
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks, make_grid

from vicreg_workers.selfsup.evaluation.detection import DetectionExample
from vicreg_workers.selfsup.png import png

SIDE = 240
"""Of an image of the figure, in pixels."""
LEAST_SCORE = 0.5
"""Of the detections that are shown."""
COLOURS = ("red", "lime", "blue", "yellow", "magenta", "cyan", "orange", "white")
"""Of the classes, in turn."""


def detection_picture(examples: Sequence[DetectionExample], categories: Sequence[str]) -> bytes:
    """Plot the objects of images in the upper row, and those that were found below, as PNG.

    Objects that are ignored are not shown.

    Args:
        examples: the images.
        categories: the names of the classes, from the first behind the background.
    """
    truths, found = [], []
    for view, detections in examples:
        kept = ~view.ignored
        masks = None if view.masks is None else view.masks[kept].bool()
        names = [categories[each] for each in view.categories[kept].tolist()]
        truths.append(_drawn(view.pixels, view.boxes[kept], view.categories[kept], names, masks))
        sure = detections["scores"] >= LEAST_SCORE
        masks = detections["masks"][sure] if "masks" in detections else None
        classes = detections["labels"][sure] - 1
        names = [
            f"{categories[each]} {score:.2f}"
            for each, score in zip(classes.tolist(), detections["scores"][sure], strict=True)
        ]
        found.append(_drawn(view.pixels, detections["boxes"][sure], classes, names, masks))
    return png(make_grid(torch.stack(truths + found), nrow=len(truths), padding=4, pad_value=255))


def _drawn(
    pixels: Tensor, boxes: Tensor, classes: Tensor, names: list[str], masks: Tensor | None
) -> Tensor:
    """uint8 ``[3, SIDE, SIDE]``."""
    scale = SIDE / max(pixels.shape[1:])
    size = [max(1, round(side * scale)) for side in pixels.shape[1:]]
    small: Tensor = resize(pixels, size, antialias=True)
    colours = [COLOURS[each % len(COLOURS)] for each in classes.tolist()]
    if names:
        if masks is not None:
            shrunk = resize(masks.float(), size, antialias=True) > 0.5
            small = draw_segmentation_masks(small, shrunk, alpha=0.4, colors=colours)
        small = draw_bounding_boxes(small, boxes * scale, names, colors=colours)
    return pad(small, (0, SIDE - size[1], 0, SIDE - size[0]), value=255)
