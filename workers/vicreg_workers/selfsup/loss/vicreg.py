"""The VICReg loss (arXiv 2105.04906, section 4; facebookresearch/vicreg, ``main_vicreg.py``).

All terms are computed in float32 (in float64 if the input is): a sum of squared covariances
overflows half precision.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vicreg_workers.selfsup.loss.second_moments import second_moments

STD_EPSILON = 1e-4
"""Added to the variance under the root to keep the gradient finite (paper, equation 2)."""


class VICRegTerms(NamedTuple):
    """The weighted loss and its three unweighted terms, each a scalar."""

    total: Tensor
    invariance: Tensor
    variance: Tensor
    covariance: Tensor


def invariance(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared distance of the two views' embeddings, per dimension (paper, equation 5).

    Args:
        x: embeddings of the first view, ``[N, D]``.
        y: embeddings of the second view, ``[N, D]``.

    Returns:
        A scalar in [0, ∞): the mean over N *and* D, as in the authors' code.
    """
    return functional.mse_loss(x, y)


def variance(z: Tensor) -> Tensor:
    """Hinge that pushes every dimension's standard deviation above 1 (paper, equations 1 and 2).

    Args:
        z: embeddings of one view, ``[N, D]``, N at least 2.

    Returns:
        A scalar in [0, 1): the mean over the dimensions. The variance is the unbiased one.
    """
    return variance_of(z.var(dim=0))


def variance_of(variances: Tensor) -> Tensor:
    """The variance term, given the variances of the dimensions, ``[D]``."""
    return functional.relu(1 - torch.sqrt(variances + STD_EPSILON)).mean()


def covariance(z: Tensor) -> Tensor:
    """Sum of the squared off-diagonal covariances, divided by D (paper, equations 3 and 4).

    Args:
        z: embeddings of one view, ``[N, D]``, N at least 2.

    Returns:
        A scalar in [0, ∞). The covariance's divisor is N - 1.
    """
    _, off_diagonal = second_moments(z)
    return off_diagonal / z.shape[1]


class VICRegLoss(nn.Module):
    """The weighted sum of the three terms (paper, equation 6).

    In a process group, the variance and covariance terms are those of the batch over all processes
    and the invariance term is that of the local batch: averaged over the processes, as
    DistributedDataParallel averages gradients, value and gradient equal those of one process on
    the concatenated batch.

    Args:
        invariance: λ, at least 0.
        variance: μ, at least 0.
        covariance: ν, at least 0.

    Example:
        >>> loss = VICRegLoss()
        >>> terms = loss(torch.randn(8, 4), torch.randn(8, 4))
        >>> terms.total.shape
        torch.Size([])
    """

    def __init__(
        self, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0
    ) -> None:
        super().__init__()
        self.invariance = invariance
        self.variance = variance
        self.covariance = covariance

    def forward(self, x: Tensor, y: Tensor) -> VICRegTerms:
        """Compute the loss of two batches of embeddings.

        Args:
            x: embeddings of the first view, ``[N, D]``, N at least 2.
            y: embeddings of the second view, ``[N, D]``.

        Raises:
            ValueError: the shapes differ or are not ``[N, D]``.
        """
        if x.ndim != 2 or x.shape != y.shape:
            raise ValueError(
                f"expected two batches of one shape [N, D], got {list(x.shape)} and {list(y.shape)}"
            )
        with torch.autocast(x.device.type, enabled=False):
            if x.dtype != torch.float64:
                x, y = x.float(), y.float()
            invariance_term = invariance(x, y)
            x_variances, x_off_diagonal = second_moments(x, over_processes=True)
            y_variances, y_off_diagonal = second_moments(y, over_processes=True)
            variance_term = (variance_of(x_variances) + variance_of(y_variances)) / 2
            covariance_term = (x_off_diagonal + y_off_diagonal) / x.shape[1]
        total = (
            self.invariance * invariance_term
            + self.variance * variance_term
            + self.covariance * covariance_term
        )
        return VICRegTerms(total, invariance_term, variance_term, covariance_term)
