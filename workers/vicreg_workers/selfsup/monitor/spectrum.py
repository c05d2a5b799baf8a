"""What the eigenvalues of representations say: ranks and decay."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-7
"""Added to each share before its logarithm, in RankMe and LiDAR."""
FITTED_RANKS = (3, 100)
FEWEST_SAMPLES = 1000
"""For α-ReQ: with fewer, chance alone moves it by 0.05."""
MOST_ADDED = 0.14
"""Of an eigenvalue that is still fitted: with more, α is moved by 0.05 and more."""
DELTA = 1e-4
"""LiDAR's δ (Thilak et al. 2023)."""


def rankme(z: Tensor) -> float:
    """Effective rank: the exponential of the entropy of the normalised singular values.

    Args:
        z: ``[N, D]``.

    Returns:
        A number in [1, min(N, D)]. The paper has N = 25,600: fewer samples cut the tail of the
        spectrum off. Of a power law of exponent 1, 2,000 samples have 0.96 of the rank at D = 512
        and 0.80 at D = 2048.

    Source: Garrido et al. 2023 (arXiv 2210.02885), equation 1.
    """
    singular_values = squared_singular_values(z).sqrt()
    return _effective_rank(singular_values)


def nesum(eigenvalues: Tensor) -> float:
    """Sum of the eigenvalues of the covariance over the largest: how many would be as large as it.

    Args:
        eigenvalues: ``[D]``, descending.

    Returns:
        A number in [1, D]: 1 if all varies along one direction, D if white; 0 if nothing varies.

    Source: He & Ozay 2022 (Exploring the Gap between Collapsed & Whitened Features in
    Self-Supervised Learning, ICML): normalised eigenvalue sum.
    """
    largest = float(eigenvalues[0])
    return float(eigenvalues.sum()) / largest if largest > 0 else 0.0


def lidar(z: Tensor) -> float:
    """Effective rank of what tells images apart, in units of what augmentation changes.

    The eigenvalues are those of linear discriminant analysis, ``W^-½ B W^-½``, with the views of
    one image as a class: B is the covariance of the classes' means, W that within classes, plus δ.

    Args:
        z: ``[n, q, D]``, of q views of each of n images. The estimate of W needs n(q - 1) > D: in
            directions that it has not seen, δ alone is left.

    Returns:
        A number in [1, min(n - 1, D)].

    Source: Thilak et al. 2023 (arXiv 2312.04000), section 4; δ = 1e-4.
    """
    z = z.double()
    images, views, width = z.shape
    means = z.mean(dim=1)
    inner = (z - means[:, None]).reshape(-1, width)
    within = inner.T @ inner / (images * (views - 1))
    within.diagonal().add_(DELTA)
    between = (means - means.mean(dim=0)) / (images - 1) ** 0.5
    # W^-½ B W^-½ has the eigenvalues of the smaller M W^-1 Mᵀ, with B = MᵀM.
    solved = torch.cholesky_solve(between.T, torch.linalg.cholesky(within))
    ascending = torch.linalg.eigvalsh(between @ solved).clamp_min(0.0)
    return _effective_rank(ascending[-width:])


def alpha_req(eigenvalues: Tensor, samples: int) -> float | None:
    """Decay of the eigenvalues of the representation's covariance: λ_i ∝ i^(-α).

    Args:
        eigenvalues: ``[D]``, descending, to any scale.
        samples: N, of which they are.

    Returns:
        α, the negative slope of log λ over log i, fitted to ranks 3 to 100 with weights 1/i. Values
        near 1 are considered good; 0 means white, a large value few dimensions. None if N is too
        small for D: α would then be that of the sample. Of power laws from 0.5 to 1.5, it is within
        0.05.

    Source: Agrawal et al. 2022 (α-ReQ, NeurIPS), section 3; ranks and weights are those of its
    authors' code, after Stringer et al. 2019.
    """
    line = fitted_line(eigenvalues, samples)
    return None if line is None else -line[0]


def fitted_line(eigenvalues: Tensor, samples: int) -> tuple[float, float] | None:
    """Slope and intercept of log λ over log i, as ``alpha_req`` fits them; None if it does not."""
    eigenvalues = eigenvalues[eigenvalues > eigenvalues.max() * 1e-10]
    first, last = FITTED_RANKS
    last = min(last, len(eigenvalues))
    if samples < FEWEST_SAMPLES or last <= first:
        return None
    # In a sample, the directions beyond a rank add about their sum over N to its eigenvalue
    # (Lawley 1956).
    added = eigenvalues[last:].sum() / (samples * eigenvalues[last - 1])
    if added > MOST_ADDED:
        return None
    rank = torch.arange(first, last + 1, device=eigenvalues.device).double()
    x, y, weight = rank.log(), eigenvalues[first - 1 : last].log(), 1 / rank
    x_mean, y_mean = ((weight * each).sum() / weight.sum() for each in (x, y))
    x, y = x - x_mean, y - y_mean
    slope = float((weight * x * y).sum() / (weight * x.square()).sum())
    return slope, float(y_mean) - slope * float(x_mean)


def covariance_eigenvalues(z: Tensor) -> Tensor:
    """Of the covariance of ``[N, D]``, the min(N, D) largest, descending, float64."""
    return squared_singular_values(z - z.mean(dim=0)) / max(1, len(z) - 1)


def squared_singular_values(z: Tensor) -> Tensor:
    """Of ``[N, D]``, descending, float64: exact to 1e-8 of the largest singular value.

    Computed as the eigenvalues of the smaller of ZᵀZ and ZZᵀ: less work than decomposing Z.
    """
    z = z.double()
    gram = z.T @ z if z.shape[1] < z.shape[0] else z @ z.T
    ascending: Tensor = torch.linalg.eigvalsh(gram)
    return ascending.clamp_min(0.0).flip(0)


def _effective_rank(values: Tensor) -> float:
    p = values / values.sum().clamp_min(1e-12) + EPSILON
    return float(torch.exp(-(p * p.log()).sum()))
