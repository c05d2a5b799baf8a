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


def mean_average_precision(scores: Tensor, targets: Tensor) -> float:
    """The mean over the classes of the area under the curve of precision over recall.

    Args:
        scores: ``[N, C]``.
        targets: ``[N, C]``, 1, 0, or -1 for unknown, which is left out. A class without a 1 is left
            out too.

    Returns:
        A number in [0, 1]; 0 where no class has a 1.
    """
    from sklearn.metrics import average_precision_score

    precisions = []
    for score, target in zip(scores.T.cpu(), targets.T.cpu(), strict=True):
        known = target >= 0
        if (target == 1).any():
            precisions.append(average_precision_score(target[known], score[known]))
    return float(sum(precisions) / len(precisions)) if precisions else 0.0
