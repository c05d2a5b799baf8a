"""One linear SVM per class on frozen representations, as the paper's VOC07 results are measured.

The protocol is that of Goyal et al. 2019 (arXiv 1905.01235; facebookresearch/
fair_self_supervision_benchmark, ``tools/svm``), trained by LIBLINEAR through scikit-learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from joblib import Parallel, delayed
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC
from torch import Tensor

from vicreg_platform.specs import SvmProtocol
from vicreg_workers.selfsup.errors import InvalidInput

POSITIVE_WEIGHT = 2
"""Of the images that have the class, against 1 of the others (``train_svm_kfold.py``)."""
TOLERANCE, MAX_ITERATIONS = 1e-4, 2000
"""The same file."""
EPSILON = 1e-5
"""Added to a representation's norm before it is divided by it (``svm_helper.py``)."""


class SvmResult(NamedTuple):
    """The SVMs' decisions."""

    scores: Tensor
    """Of the test images, ``[M, C]``: positive for images that have the class."""
    costs: list[float]
    """The cost that each class has chosen, ``[C]``."""


def svm_scores(
    train: Tensor, targets: Tensor, test: Tensor, protocol: SvmProtocol, classes: Sequence[str]
) -> SvmResult:
    """Train an SVM for each class; of several costs, it chooses by cross-validated precision.

    Args:
        train: representations to learn from, ``[N, F]``.
        targets: ``[N, C]`` of 1, 0, or -1 for unknown, which a class leaves out.
        test: representations to classify, ``[M, F]``.
        protocol: costs, folds, seed.
        classes: their names.

    Raises:
        InvalidInput: a class has too few images, or too few without it, for the folds.
    """
    known, queries = _normalised(train), _normalised(test)
    labels = targets.cpu().numpy()
    # One of each to learn from, and one in each fold where a cost is chosen.
    needed = protocol.folds if len(protocol.costs) > 1 else 1
    for name, label in zip(classes, labels.T, strict=True):
        if min((label == 1).sum(), (label == 0).sum()) < needed:
            why = f"protocol.folds needs {needed} of each: lower it"
            if needed == 1:
                why = "an SVM needs one of each: name other images"
            raise InvalidInput(
                f"data.train: class {name} has {(label == 1).sum()} images and "
                f"{(label == 0).sum()} without it, and {why}, or leave the class out"
            )
    # LIBLINEAR lets other threads run.
    fitted = Parallel(n_jobs=torch.get_num_threads(), prefer="threads")(
        delayed(_fitted)(known, label, queries, protocol) for label in labels.T
    )
    scores = np.stack([score for score, _ in fitted], axis=1)
    return SvmResult(torch.from_numpy(scores), [cost for _, cost in fitted])


def _fitted(
    known: np.ndarray, label: np.ndarray, queries: np.ndarray, protocol: SvmProtocol
) -> tuple[np.ndarray, float]:
    """The decisions of a class's SVM, and its cost."""
    features, wanted = known[label >= 0], np.where(label[label >= 0] == 1, 1, -1)

    def machine(cost: float) -> LinearSVC:
        return LinearSVC(
            C=cost,
            class_weight={1: POSITIVE_WEIGHT, -1: 1},
            tol=TOLERANCE,
            dual=True,
            max_iter=MAX_ITERATIONS,
            random_state=protocol.seed,
        )

    def precision(cost: float) -> float:
        folds = cross_val_score(
            machine(cost), features, wanted, cv=protocol.folds, scoring="average_precision"
        )
        return float(folds.mean())

    costs = protocol.costs
    best = costs[0] if len(costs) == 1 else max(costs, key=precision)
    return machine(best).fit(features, wanted).decision_function(queries), best


def _normalised(features: Tensor) -> np.ndarray:
    # A copy, which is scaled in place: another would be as large as all else.
    rows: np.ndarray = features.to("cpu", torch.float64, copy=True).numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True) + EPSILON
    return rows
