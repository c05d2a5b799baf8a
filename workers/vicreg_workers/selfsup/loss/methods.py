"""The loss of each method, with variance and covariance terms if the spec asks for them.

All are computed in float32. In a process group, each is the loss of the batch over all processes:
averaged over them, as DistributedDataParallel averages gradients, value and gradient equal those of
one process on the concatenated batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from vicreg_platform.specs import BarlowTwins, Method, SimCLR, VICRegL, VICRegTerms
from vicreg_workers.selfsup.distributed import (
    gather_with_gradient,
    mean_over_processes,
    rank,
)
from vicreg_workers.selfsup.loss.places import place_terms
from vicreg_workers.selfsup.loss.second_moments import second_moments
from vicreg_workers.selfsup.loss.vicreg import invariance, variance_of


class Losses(NamedTuple):
    """The loss of a batch, its terms, and the spread of the embeddings."""

    terms: dict[str, Tensor]
    """Scalars by metric name: ``loss``, which is minimised, then the unweighted terms."""
    std: Tensor
    """Standard deviation of each dimension of the first views' embeddings, ``[D]``, detached. If
    their scale means nothing, they are first scaled to a mean square of 1: for embeddings of norm
    1, and for all methods but VICReg (whose losses ignore the scale) unless standardised."""


class MethodLoss:
    """The loss that a method minimises.

    Args:
        method: its name, weights and temperature.
        normalization: of the embeddings, as in the expander's spec.
        local: whether there are local views.
    """

    def __init__(self, method: Method, normalization: str = "none", local: bool = False) -> None:
        self._method = method
        self._weight, self._term, self._pair = _pair_loss(method)
        self._local = (f"local_{self._term}",) if local else ()
        self._places = (
            ("places_invariance", "places_variance", "places_covariance")
            if isinstance(method, VICRegL)
            else ()
        )
        # If standardised embeddings collapse, BatchNorm's own epsilon shows it.
        self._scaled = normalization == "l2" or (
            normalization == "none" and not isinstance(method, VICRegTerms)
        )

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of the terms, in order."""
        return ("loss", self._term, "variance", "covariance", *self._local, *self._places)

    def __call__(
        self,
        first: Tensor,
        second: Tensor,
        pairs: Iterable[tuple[Tensor, Tensor]],
        local: Tensor | None = None,
        places: tuple[Tensor, ...] = (),
        *,
        boxes: Tensor | None = None,
    ) -> Losses:
        """Compute the loss of a batch.

        With local views, the term that pulls embeddings together is its mean over all pairs of a
        global view and another view, as in VICRegL (facebookresearch/VICRegL, ``main_vicregl.py``,
        ``global_loss``): gradients pass through both. Variance and covariance are those of the
        global views; those of vicregl are the means over all views, as there.

        Args:
            first: embeddings of the first views, ``[N, D]``.
            second: embeddings of the second views, ``[N, D]``.
            pairs: embeddings to pull together, each ``[N, D]``: (first, second), or (prediction,
                target) with each view predicting the other.
            local: embeddings of the L local views, ``[L, N, D]``.
            places: with vicregl, those of the places of the views, see ``Embeddings``.
            boxes: with vicregl, what the views show of their images, ``[N, V, 5]``.
        """
        with torch.autocast(first.device.type, enabled=False):
            first, second = _exact(first), _exact(second)
            pulled = [self._pair(_exact(x), _exact(y)) for x, y in pairs]
            pair = torch.stack(pulled).mean()
            local = None if local is None else _exact(local)
            regularised = [first, second]
            if self._places and local is not None:
                regularised += local
            moments = [second_moments(z, over_processes=True) for z in regularised]
            variance = torch.stack([variance_of(variances) for variances, _ in moments]).mean()
            covariance = torch.stack([squares for _, squares in moments]).sum() / first.shape[1]
            if self._places:
                # A mean over the views, where VICReg has a sum.
                covariance = covariance / len(moments)
            values = [pair, variance, covariance]
            if local is not None:
                near = [self._pair(z.expand_as(local), local) for z in (first, second)]
                values.append(torch.stack(near).mean())
                # Of each global view's pairs, one is with the other global view, L with local ones.
                pair = (pair + len(local) * values[-1]) / (1 + len(local))
            method = self._method
            total = (
                self._weight * pair + method.variance * variance + method.covariance * covariance
            )
            if isinstance(method, VICRegL):
                assert boxes is not None
                own = place_terms(_by_view(places), boxes, method.matches)
                values += own
                weights = (method.invariance, method.variance, method.covariance)
                of_places = sum(weight * term for weight, term in zip(weights, own, strict=True))
                total = method.alpha * total + (1 - method.alpha) * of_places
        std = moments[0][0].detach().sqrt()
        if self._scaled:
            size = mean_over_processes(first.detach().square().mean())
            std = std / size.sqrt().clamp_min(1e-12)
        return Losses(dict(zip(self.terms, [total, *values], strict=True)), std)


def _pair_loss(method: Method) -> tuple[float, str, Callable[[Tensor, Tensor], Tensor]]:
    """The weight, metric name and function of the term that pulls two embeddings together."""
    if isinstance(method, VICRegTerms):
        return method.invariance, "invariance", invariance
    if isinstance(method, BarlowTwins):
        weight = method.redundancy
        return method.scale, "correlation", lambda x, y: barlow_twins(x, y, weight)
    if isinstance(method, SimCLR):
        temperature = method.temperature
        return 1.0, "contrastive", lambda x, y: nt_xent(x, y, temperature)
    return 1.0, "similarity", negative_cosine


def barlow_twins(x: Tensor, y: Tensor, redundancy: float) -> Tensor:
    """Distance of the two views' cross-correlation matrix from the identity.

    Args:
        x: embeddings of the first view, ``[n, D]`` on each process.
        y: embeddings of the second view, ``[n, D]``.
        redundancy: weight of the off-diagonal elements, at least 0.

    Returns:
        A scalar in [0, ∞): a sum over all D² elements.

    Source: Zbontar et al. 2021 (arXiv 2103.03230), equation 1. If N < D, the squared elements are
    summed as ``⟨XXᵀ, YYᵀ⟩ = ‖XᵀY‖²``, without a D×D matrix.
    """
    x, y = (_standardised(gather_with_gradient(z)) for z in (x, y))
    count, dimensions = x.shape
    diagonal = (x * y).sum(dim=0) / count
    if count < dimensions:
        squares = ((x @ x.T) * (y @ y.T)).sum() / count**2
    else:
        squares = (x.T @ y).square().sum() / count**2
    off_diagonal = squares - diagonal.square().sum()
    return (1 - diagonal).square().sum() + redundancy * off_diagonal


def nt_xent(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of identifying an image's other view among all views of the batch.

    Args:
        x: embeddings of the first view, ``[n, D]`` on each process.
        y: embeddings of the second view, ``[n, D]``.
        temperature: τ, above 0.

    Returns:
        The mean over this process's 2n views, a scalar in [0, ∞).

    Source: Chen et al. 2020 (arXiv 2002.05709), algorithm 1.
    """
    x, y = functional.normalize(x, dim=1), functional.normalize(y, dim=1)
    count = x.shape[0]
    everywhere_x, everywhere_y = gather_with_gradient(x), gather_with_gradient(y)
    everywhere = torch.cat([everywhere_x, everywhere_y])
    similarity = torch.cat([x, y]) @ everywhere.T / temperature
    place = torch.arange(count, device=x.device) + rank() * count
    itself = torch.cat([place, place + len(everywhere_x)])
    other = torch.cat([place + len(everywhere_x), place])
    similarity = similarity.scatter(1, itself[:, None], float("-inf"))
    return functional.cross_entropy(similarity, other)


def negative_cosine(x: Tensor, y: Tensor) -> Tensor:
    """Mean of the negative cosine similarity, in [-1, 1] (Chen & He 2021, equation 1).

    BYOL's loss (Grill et al. 2020, equation 2) is 2 + 2 times this.
    """
    return -functional.cosine_similarity(x, y, dim=1).mean()


def _standardised(z: Tensor) -> Tensor:
    variance, mean = torch.var_mean(z, dim=0, correction=0)
    # BatchNorm's epsilon: the authors' code standardises by a BatchNorm.
    return (z - mean) * torch.rsqrt(variance + 1e-5)


def _by_view(places: tuple[Tensor, ...]) -> list[Tensor]:
    """Embeddings of places as ``[N, P, E]`` for each view."""
    first, second, *local = (_exact(each) for each in places)
    views = [first, second, *(each for some in local for each in some)]
    return [view.transpose(0, 1) for view in views]


def _exact(z: Tensor) -> Tensor:
    return z if z.dtype == torch.float64 else z.float()
