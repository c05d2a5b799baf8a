"""Plots of a training, as PNG bytes."""

from __future__ import annotations

import io

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from vicreg_workers.selfsup.data.transforms import denormalise

DOTS_PER_INCH = 110
PIXELS_PER_VIEW = 96


def view_pairs(first: Tensor, second: Tensor) -> bytes:
    """Plot view pairs as a grid: first views in the upper row, second views below.

    Args:
        first: ``[n, 3, S, S]``, normalised.
        second: the same images' second views.
    """
    views = denormalise(torch.cat([first, second]))
    scale = max(1, PIXELS_PER_VIEW // views.shape[-1])
    views = views.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    grid = make_grid(views, nrow=len(first), padding=4, pad_value=1.0)
    buffer = io.BytesIO()
    to_pil_image(grid).save(buffer, format="PNG")
    return buffer.getvalue()


def std_histogram(std: Tensor, epoch: int) -> bytes:
    """Plot a histogram of the standard deviations of the embedding's dimensions.

    Args:
        std: ``[D]``.
        epoch: epochs finished.
    """
    figure = Figure(figsize=(6, 3.2))
    # Fixed margins: a layout engine would draw everything several times.
    axes = figure.add_axes((0.1, 0.16, 0.87, 0.72))
    counts, edges = np.histogram(std.numpy(), bins=50)
    # One shape: 50 bars would take far longer.
    axes.stairs(counts, edges, fill=True, color="#3b6ea5")
    axes.axvline(1.0, color="#c44e52", linestyle="--", linewidth=1, label="hinge of the loss")
    axes.set_xlim(left=0.0)
    axes.set_xlabel("standard deviation of an embedding dimension")
    axes.set_ylabel("dimensions")
    axes.set_title(f"Embedding after epoch {epoch}: mean {float(std.mean()):.3f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()
