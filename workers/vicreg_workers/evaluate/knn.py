"""Runs the protocol ``knn``: nearest neighbours."""

from __future__ import annotations

import logging

from vicreg_platform.specs import KnnProtocol
from vicreg_workers.evaluate.evaluation import Evaluation
from vicreg_workers.selfsup.evaluation.knn import knn_scores

logger = logging.getLogger(__name__)


def evaluate_knn(evaluation: Evaluation, protocol: KnnProtocol) -> dict[str, float]:
    """Classify the test images by their nearest training images.

    Raises:
        UserFailure: images have several labels each.
    """
    evaluation.require_one_label(protocol.name)
    train, test = evaluation.features()
    k = min(protocol.k, len(train.labels))
    if k < protocol.k:
        logger.warning("protocol.k is %d, but there are only %d training images", protocol.k, k)
    classes = len(evaluation.train_images.classes)
    scores = knn_scores(train, test.representations, k, protocol.temperature, classes)
    return evaluation.accuracy(protocol.name, scores, test)
