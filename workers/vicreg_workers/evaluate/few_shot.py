"""Runs the protocol ``few_shot``: linear SVMs on a few images of each class."""

from __future__ import annotations

from vicreg_platform.specs import FewShotProtocol
from vicreg_workers.evaluate.evaluation import Evaluation
from vicreg_workers.selfsup.evaluation.few_shot import few_shot_metrics


def evaluate_few_shot(evaluation: Evaluation, protocol: FewShotProtocol) -> dict[str, float]:
    """Classify the test images by SVMs of a few training images of each class.

    Raises:
        UserFailure: images have several labels each.
        InvalidInput: a class has too few images.
    """
    evaluation.require_one_label(protocol.name)
    train, test = evaluation.features()
    found = few_shot_metrics(
        train.representations,
        train.labels,
        test.representations,
        evaluation.test_labels(test),
        protocol,
        evaluation.train_images.classes,
    )
    return {f"{protocol.name}/{name}": value for name, value in found.items()}
