"""Top-k accuracy and mean average precision."""

from __future__ import annotations

import torch
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


def interpolated_average_precision(scores: Tensor, targets: Tensor) -> float:
    """As ``mean_average_precision``, with the precision of VOC's later years.

    The precision at a recall is the highest at that or a higher recall
    (facebookresearch/fair_self_supervision_benchmark, ``svm_helper.py``, ``calculate_ap``).
    """
    precisions = []
    for score, target in zip(scores.T.cpu(), targets.T.cpu(), strict=True):
        known = target >= 0
        hit = (target == 1)[known][score[known].argsort(descending=True, stable=True)]
        if not hit.any():
            continue
        precision = hit.cumsum(0) / torch.arange(1, len(hit) + 1)
        highest = precision.flip(0).cummax(0).values.flip(0)
        precisions.append(float(highest[hit].double().mean()))
    return sum(precisions) / len(precisions) if precisions else 0.0
