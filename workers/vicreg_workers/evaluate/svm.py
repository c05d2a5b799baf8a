"""Runs the protocol ``svm``: one linear SVM per class."""

from __future__ import annotations

import logging

import torch

from vicreg_platform.specs import SvmProtocol
from vicreg_workers.evaluate.evaluation import Evaluation
from vicreg_workers.failures import UserFailure
from vicreg_workers.selfsup.evaluation.metrics import interpolated_average_precision
from vicreg_workers.selfsup.evaluation.svm import svm_scores

logger = logging.getLogger(__name__)


def evaluate_svm(evaluation: Evaluation, protocol: SvmProtocol) -> dict[str, float]:
    """Train an SVM for each class on the frozen representations, and classify the test images.

    Raises:
        UserFailure: training and test images differ in their classes.
        InvalidInput: a class has too few images for the cross-validation.
    """
    images = evaluation.train_images
    if (images.several is None) != (evaluation.test_images.several is None):
        raise UserFailure("data.train.labels and data.test.labels: give both or neither")
    train, test = evaluation.features()
    count = len(images.classes)
    if images.several is None:
        targets = torch.nn.functional.one_hot(train.labels, count)
        wanted = torch.nn.functional.one_hot(evaluation.test_labels(test), count)
    else:
        targets = images.several[train.indices]
        wanted = evaluation.several_of_test(test)
    result = svm_scores(
        train.representations, targets, test.representations, protocol, images.classes
    )
    chosen = zip(images.classes, result.costs, strict=True)
    logger.info("costs: %s", ", ".join(f"{name} {cost:g}" for name, cost in chosen))
    metrics = {"svm/map": interpolated_average_precision(result.scores, wanted)}
    if images.several is None:
        scores = result.scores.to(evaluation.device)
        metrics |= evaluation.accuracy(protocol.name, scores, test)
    return metrics
