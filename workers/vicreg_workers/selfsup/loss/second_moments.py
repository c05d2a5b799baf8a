"""Variances and squared covariances of a batch, without a D×D matrix if an N×N one is smaller.

With Z centred, ``‖ZᵀZ‖² = ‖ZZᵀ‖²``: the squared covariances need the D×D matrix ``ZᵀZ`` or the
N×N matrix ``ZZᵀ``, whichever is smaller, and so does their gradient. In a process group, each
process computes only what its own rows need: its rows of ``ZZᵀ``, or its summand of ``ZᵀZ``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vicreg_workers.selfsup.distributed import (
    gather,
    rank,
    refuse_second_derivative,
    sum_over_processes,
    world_size,
)


def second_moments(z: Tensor, over_processes: bool = False) -> tuple[Tensor, Tensor]:
    """The diagonal of the covariance matrix, and the sum of its squared off-diagonal elements.

    The gradient is analytic: N·min(N, D)·D multiplications forward and as many backward, shared
    evenly by the processes. The backward pass needs no communication.

    Args:
        z: ``[N, D]``, N at least 2 over all processes; the same shape on each.
        over_processes: whether the batch is that of all processes. The values are then the same
            on each, and each gets the gradient of its own rows, times the number of processes:
            averaged by DistributedDataParallel, it is the gradient of the one loss.

    Returns:
        ``[D]`` and a scalar, both at least 0; the divisor of the covariances is N - 1.

    Raises:
        RuntimeError: in a second derivative, which is not implemented.
    """
    variances, off_diagonal = _SecondMoments.apply(z, over_processes and world_size() > 1)
    return variances, off_diagonal


class _SecondMoments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, over_processes: bool) -> tuple[Tensor, Tensor]:
        ctx.copies = world_size() if over_processes else 1
        ctx.divisor = ctx.copies * z.shape[0] - 1
        ctx.by_rows = ctx.divisor < z.shape[1]
        moments = _by_rows if ctx.by_rows else _by_dimensions
        sums, off_diagonal, saved = moments(z, over_processes)
        ctx.save_for_backward(*saved)
        return sums / ctx.divisor, off_diagonal / ctx.divisor**2

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        refuse_second_derivative("the variance and covariance terms")
        # With s the diagonal of ZᵀZ: ∂‖ZᵀZ‖²/∂Z = 4 ZZᵀZ, ∂Σs²/∂Z = 4 Z diag(s), ∂s/∂Z = 2 Z.
        # All three are sums of rows of Z, so that the gradient through the mean is zero.
        by_variances = gradients[0] * (2 * ctx.copies / ctx.divisor)
        by_off_diagonal = gradients[1] * (4 * ctx.copies / ctx.divisor**2)
        if ctx.by_rows:
            centred, mine, gram, sums = ctx.saved_tensors
            scale = by_variances - by_off_diagonal * sums
            return torch.addmm(mine * scale, gram * by_off_diagonal, centred), None
        mine, off_diagonal_matrix = ctx.saved_tensors
        matrix = off_diagonal_matrix * by_off_diagonal
        matrix.diagonal().copy_(by_variances)
        return mine @ matrix, None


def _by_rows(z: Tensor, over_processes: bool) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """By this process's rows of ``ZZᵀ``: for more dimensions than rows."""
    rows = z.shape[0]
    if over_processes:
        z = gather(z)
    centred = z - z.mean(dim=0)
    mine = centred.narrow(0, rank() * rows, rows) if over_processes else centred
    gram = mine @ centred.T
    sums = torch.linalg.vector_norm(centred, dim=0).square()
    squares = torch.linalg.vector_norm(gram).square()
    if over_processes:
        squares = sum_over_processes(squares)
    # Rounding can make the difference of two equal numbers negative.
    off_diagonal = (squares - sums.square().sum()).clamp_min(0)
    return sums, off_diagonal, (centred, mine, gram, sums)


def _by_dimensions(z: Tensor, over_processes: bool) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """By ``ZᵀZ``, summed over each process's rows: for more rows than dimensions."""
    mean = z.mean(dim=0)
    if over_processes:
        mean = sum_over_processes(mean) / world_size()
    mine = z - mean
    matrix = mine.T @ mine
    if over_processes:
        dist.all_reduce(matrix)
    sums = matrix.diagonal().clone()
    matrix.fill_diagonal_(0)
    return sums, torch.linalg.vector_norm(matrix).square(), (mine, matrix)
