"""A figure of images, their masks and predictions."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.utils import make_grid

from vicreg_workers.selfsup.data.dense.masked_images import IGNORED
from vicreg_workers.selfsup.evaluation.segmentation import SegmentationExamples
from vicreg_workers.selfsup.png import png

SIDE = 160
"""Of an image of the figure, in pixels."""
IGNORED_COLOUR = (224, 224, 192)
"""VOC's for its label 255."""


def segmentation_picture(examples: SegmentationExamples) -> bytes:
    """Plot images in the upper row, their masks below, and the predictions below these, as PNG.

    Each class has its colour of Pascal VOC's palette; class 0 is black. Predictions for pixels that
    are ignored are shown too.
    """
    masks, predictions = (
        _coloured(classes.long()) for classes in (examples.masks, examples.predictions)
    )
    rows = torch.cat([examples.views, masks, predictions])
    size = rows.shape[-1]
    pixels = ((torch.arange(SIDE) + 0.5) * (size / SIDE)).long()
    return png(
        make_grid(rows[:, :, pixels][:, :, :, pixels], nrow=len(masks), padding=4, pad_value=255)
    )


def _coloured(classes: Tensor) -> Tensor:
    """The colours of classes ``[n, S, S]``: uint8 ``[n, 3, S, S]``.

    The bits of a class, from the lowest, are in turn the highest bits of red, green and blue
    (VOC's development kit, ``VOClabelcolormap``).
    """
    channels = []
    for channel, ignored in enumerate(IGNORED_COLOUR):
        colour = torch.zeros_like(classes)
        for bit in range(8):
            colour |= ((classes >> (3 * bit + channel)) & 1) << (7 - bit)
        channels.append(torch.where(classes == IGNORED, ignored, colour))
    return torch.stack(channels, dim=1).to(torch.uint8)
