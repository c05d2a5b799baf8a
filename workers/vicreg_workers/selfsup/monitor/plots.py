"""Plots of a training, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from vicreg_workers.selfsup.data.transforms import denormalise
from vicreg_workers.selfsup.monitor.final_pictures import Map, Neighbours
from vicreg_workers.selfsup.monitor.spectrum import FITTED_RANKS
from vicreg_workers.selfsup.png import png

DOTS_PER_INCH = 110
PIXELS_PER_VIEW = 96
SAME, OTHER = (0.25, 0.6, 0.35), (0.77, 0.31, 0.32)
"""Colours of the frames of neighbours: of the same class as the image, or not."""
MOST_CLASSES = 20
"""That the map of embeddings tells apart by colour: Matplotlib's palette has no more."""


def view_pairs(first: Tensor, second: Tensor) -> bytes:
    """Plot view pairs as a grid: first views in the upper row, second views below.

    Args:
        first: ``[n, 3, S, S]``, normalised.
        second: the same images' second views.
    """
    views = denormalise(torch.cat([first, second]))
    scale = max(1, PIXELS_PER_VIEW // views.shape[-1])
    views = views.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    return png(make_grid(views, nrow=len(first), padding=4, pad_value=1.0))


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
    return _png(figure)


def spectrum(eigenvalues: Tensor, line: tuple[float, float] | None, epoch: int) -> bytes:
    """Plot the eigenvalues of the representation's covariance by rank, both logarithmic.

    Args:
        eigenvalues: ``[D]``, descending.
        line: slope and intercept of the natural logarithms, as α-ReQ fits them, if it does.
        epoch: epochs finished.
    """
    figure = Figure(figsize=(6, 3.2))
    axes = figure.add_axes((0.1, 0.16, 0.87, 0.72))
    # The logarithms themselves: logarithmic axes take 1.7 times as long.
    kept = eigenvalues[eigenvalues > eigenvalues.max() * 1e-10].cpu()
    rank = np.arange(1, len(kept) + 1)
    axes.plot(np.log10(rank), np.log10(kept.numpy()), color="#3b6ea5")
    if line is not None:
        first, last = FITTED_RANKS
        fitted = np.log(np.array([first, min(last, len(kept))]))
        values = (line[0] * fitted + line[1]) / np.log(10)
        label = f"α = {-line[0]:.2f}"
        axes.plot(fitted / np.log(10), values, color="#c44e52", linestyle="--", label=label)
        axes.legend(frameon=False)
    axes.set_xlabel("log₁₀ of the rank")
    axes.set_ylabel("log₁₀ of the eigenvalue")
    axes.set_title(f"Representation after epoch {epoch}: spectrum of the covariance")
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def neighbours(found: Neighbours) -> bytes:
    """Plot images, each with its nearest neighbours to the right of it.

    Neighbours of the image's class have a green frame, others a red one.
    """
    views = found.views.float().div(255)
    rows, columns, _, side, _ = views.shape
    scale = max(1, PIXELS_PER_VIEW // side)
    views = views.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    frame, side = 3, side * scale
    framed = torch.ones(rows, columns, 3, side + 2 * frame, side + 2 * frame)
    if found.same_class is not None:
        same, other = torch.tensor(SAME), torch.tensor(OTHER)
        colours = torch.where(found.same_class[..., None], same, other)
        framed[:, 1:] = colours[..., None, None]
    framed[..., frame:-frame, frame:-frame] = views
    return png(make_grid(framed.flatten(0, 1), nrow=columns, padding=2, pad_value=1.0))


def embedding_map(placed: Map, labels: Sequence[int], classes: Sequence[str]) -> bytes:
    """Plot representations in two dimensions, coloured by class if there are 2 to 20 of them.

    Args:
        placed: where they are.
        labels: the class of each.
        classes: their names; empty if there are none.
    """
    figure = Figure(figsize=(6, 5))
    axes = figure.add_axes((0.02, 0.02, 0.76, 0.9))
    x, y = placed.points.numpy().T
    coloured = 1 < len(classes) <= MOST_CLASSES
    chosen = np.array(labels)
    # One call a class, not one a point.
    for number, name in enumerate(classes if coloured else [""]):
        which = chosen == number if coloured else np.ones(len(x), dtype=bool)
        colour = colormaps["tab20"](number) if coloured else "#3b6ea5"
        axes.plot(x[which], y[which], ".", color=colour, markersize=4, label=name[:14])
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(f"Representations at the end, by {placed.method}")
    if coloured:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, markerscale=2)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()
