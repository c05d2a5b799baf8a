"""Linear SVMs on a few images of each class (Goyal et al. 2019, section 5.2)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from vicreg_platform.specs import FewShotProtocol, SvmProtocol
from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.selfsup.evaluation.metrics import top_k_accuracy
from vicreg_workers.selfsup.evaluation.svm import svm_scores


def few_shot_metrics(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    wanted: Tensor,
    protocol: FewShotProtocol,
    classes: Sequence[str],
) -> dict[str, float]:
    """The accuracy with few images of each class, by name: mean and deviation over the draws.

    Args:
        train: representations to draw from, ``[N, F]``.
        labels: their classes, ``[N]``.
        test: representations to classify, ``[M, F]``.
        wanted: their classes, ``[M]``.
        protocol: how many images, how often, and the SVMs' cost.
        classes: their names.

    Returns:
        ``<images>/top1`` in [0, 1] and ``<images>/top1_std``, the deviation of a draw (0 for one).

    Raises:
        InvalidInput: a class has too few images.
    """
    labels = labels.cpu()
    counts = torch.bincount(labels, minlength=len(classes))
    fewest, most = int(counts.argmin()), max(protocol.shots)
    if counts[fewest] < most:
        raise InvalidInput(
            f"data.train: class {classes[fewest]} has {int(counts[fewest])} images, and "
            f"protocol.shots asks for {most}: lower it, or leave the class out"
        )
    accuracies: dict[int, list[float]] = {shots: [] for shots in protocol.shots}
    for draw in range(protocol.draws):
        generator = torch.Generator().manual_seed(protocol.seed * 1000 + draw)
        order = torch.randperm(len(labels), generator=generator)
        for shots, found in accuracies.items():
            chosen = torch.cat(
                [order[labels[order] == each][:shots] for each in range(len(classes))]
            )
            machine = SvmProtocol(name="svm", costs=(protocol.cost,), seed=protocol.seed)
            targets = torch.nn.functional.one_hot(labels[chosen], len(classes))
            rows = train[chosen.to(train.device)]
            scores = svm_scores(rows, targets, test, machine, classes).scores
            found.append(top_k_accuracy(scores, wanted.cpu(), 1))
    metrics: dict[str, float] = {}
    for shots, found in accuracies.items():
        metrics[f"{shots}/top1"] = statistics.fmean(found)
        metrics[f"{shots}/top1_std"] = statistics.stdev(found) if len(found) > 1 else 0.0
    return metrics
