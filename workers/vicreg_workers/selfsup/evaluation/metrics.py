"""Top-k accuracy and mean average precision."""

from __future__ import annotations

from torch import Tensor


def top_k_accuracy(scores: Tensor, labels: Tensor, k: int) -> float:
    """Share of images whose class is among the ``k`` with the highest scores.

    Args:
        scores: ``[M, C]``.
        labels: ``[M]``, in [0, C).
        k: at least 1; with fewer classes, all count.

    Returns:
        A number in [0, 1].
    """
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return float((best == labels[:, None]).any(dim=1).float().mean())


def mean_average_precision(scores: Tensor, targets: Tensor) -> float:
    """The area under the precision-recall curve, averaged over the classes.

    Args:
        scores: ``[N, C]``.
        targets: ``[N, C]`` of 1, 0, or -1 for unknown, which is left out. Classes without a 1 are
            left out too.

    Returns:
        A number in [0, 1]; 0 if no class has a 1.
    """
    from sklearn.metrics import average_precision_score

    precisions = []
    for score, target in zip(scores.T.cpu(), targets.T.cpu(), strict=True):
        known = target >= 0
        if (target == 1).any():
            precisions.append(average_precision_score(target[known], score[known]))
    return float(sum(precisions) / len(precisions)) if precisions else 0.0
