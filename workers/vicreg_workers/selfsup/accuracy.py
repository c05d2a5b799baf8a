"""Top-k accuracy."""

from __future__ import annotations

from torch import Tensor


def top_k_accuracy(scores: Tensor, labels: Tensor, k: int) -> float:
    """Share of images whose class is among the ``k`` of highest score.

    Args:
        scores: ``[M, C]``.
        labels: ``[M]``, in [0, C).
        k: at least 1; where there are fewer classes, all of them.

    Returns:
        A number in [0, 1].
    """
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return float((best == labels[:, None]).any(dim=1).float().mean())
