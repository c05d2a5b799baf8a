"""The loss of places: VICReg of matched positions of two feature maps.

Source: Bardes et al. 2022 (VICRegL, arXiv 2210.01571), section 3.2; facebookresearch/VICRegL,
``main_vicregl.py``, ``local_loss``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from vicreg_workers.selfsup.distributed import gather_with_gradient
from vicreg_workers.selfsup.loss.vicreg import STD_EPSILON


class PlaceTerms(NamedTuple):
    """The three unweighted terms of the loss of places, each a scalar."""

    invariance: Tensor
    variance: Tensor
    covariance: Tensor


def place_terms(
    views: Sequence[Tensor], boxes: Tensor, matches: tuple[int, int], whole: int = 2
) -> PlaceTerms:
    """The mean over all pairs of a global view and another view.

    In each pair, both maps are matched with the other: every place with the nearest embedding,
    and the places that lie nearest to one of the other with that one. The terms of both ways to
    match are added; those of the two directions are averaged. A variance or covariance is over
    the images of the batch, for each match by itself.

    Args:
        views: embeddings of the places of each view, ``[N, P, E]``, P a square; global ones first.
        boxes: what each view shows, ``[N, V, 5]`` on their device: top, left, height and width in
            pixels, and whether it is mirrored.
        matches: how many places are matched by where they lie, of the first and of the second map
            of a pair; all, if there are fewer.
        whole: the number of global views.
    """
    where = [
        grid_of(boxes[:, number], isqrt(view.shape[1]), view.dtype)
        for number, view in enumerate(views)
    ]
    terms: list[Tensor] = []
    for i in range(whole):
        for j in range(len(views)):
            if j == i:
                continue
            x, y = views[i], views[j]
            for near, counts in (
                (torch.cdist(x.detach(), y.detach()), (x.shape[1], y.shape[1])),
                (torch.cdist(where[i], where[j]), matches),
            ):
                terms.append(_terms_of(*_matched(x, y, near, counts[0])))
                terms.append(_terms_of(*_matched(y, x, near.mT, counts[1])))
    # Of each pair, two ways to match are added, and two directions averaged.
    return PlaceTerms(*(2 * torch.stack(terms).mean(dim=0)))


def grid_of(boxes: Tensor, side: int, dtype: torch.dtype) -> Tensor:
    """Where the places of a view's map lie in the image, by rows of the map.

    Args:
        boxes: ``[N, 5]``: top, left, height and width of the view, and whether it is mirrored.
        side: places along each side of the map.
        dtype: of the result.

    Returns:
        The centres, ``[N, side², 2]``: vertical and horizontal, in pixels of the image.
    """
    top, left, height, width, mirrored = boxes.to(dtype).unbind(dim=1)
    centre = (torch.arange(side, device=boxes.device, dtype=dtype) + 0.5) / side
    rows = top[:, None] + height[:, None] * centre
    along = torch.where(mirrored[:, None] > 0, 1 - centre, centre)
    columns = left[:, None] + width[:, None] * along
    return torch.stack(
        [
            rows[:, :, None].expand(-1, -1, side),
            columns[:, None, :].expand(-1, side, -1),
        ],
        dim=-1,
    ).flatten(1, 2)


def _matched(x: Tensor, y: Tensor, distances: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` places of ``x`` that are nearest to one of ``y``, and these of ``y``.

    Both are ``[N, count, E]``, in the order of ``x``.
    """
    nearest, partner = distances.min(dim=2)
    count = min(count, x.shape[1])
    chosen = nearest.argsort(dim=1, stable=True)[:, :count].sort(dim=1).values
    return _picked(x, chosen), _picked(y, partner.gather(1, chosen))


def _picked(z: Tensor, places: Tensor) -> Tensor:
    return z.gather(1, places[:, :, None].expand(-1, -1, z.shape[2]))


def _terms_of(x: Tensor, y: Tensor) -> Tensor:
    """Invariance, variance and covariance of matched places ``[N, M, E]``, ``[3]``."""
    moments = [_moments(z) for z in (x, y)]
    variance, covariance = ((a + b) / 2 for a, b in zip(*moments, strict=True))
    return torch.stack([functional.mse_loss(x, y), variance, covariance])


def _moments(z: Tensor) -> tuple[Tensor, Tensor]:
    """The hinge and the squared covariances, averaged over the matches."""
    count = z.shape[1]
    everywhere = gather_with_gradient(z.flatten(1))
    z = everywhere.view(len(everywhere), count, -1).transpose(0, 1)
    z = z - z.mean(dim=1, keepdim=True)
    images, width = z.shape[1:]
    variances = z.square().sum(dim=1) / (images - 1)
    hinge = functional.relu(1 - torch.sqrt(variances + STD_EPSILON)).mean()
    # ‖ZᵀZ‖² = ‖ZZᵀ‖²: the smaller of the two matrices will do.
    gram = z @ z.mT if images < width else z.mT @ z
    squares = (gram / (images - 1)).square().sum(dim=(1, 2))
    off_diagonal = squares - variances.square().sum(dim=1)
    return hinge, off_diagonal.mean() / width
