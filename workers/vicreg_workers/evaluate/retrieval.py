"""Runs the protocol ``retrieval``: training images of a query's class, by similarity."""

from __future__ import annotations

from vicreg_platform.specs import RetrievalProtocol
from vicreg_workers.evaluate.evaluation import Evaluation
from vicreg_workers.selfsup.evaluation.retrieval import retrieval_metrics


def evaluate_retrieval(evaluation: Evaluation, protocol: RetrievalProtocol) -> dict[str, float]:
    """Rank the training images for each test image.

    Raises:
        UserFailure: images have several labels each.
    """
    evaluation.require_one_label(protocol.name)
    train, test = evaluation.features()
    found = retrieval_metrics(train, test.representations, evaluation.test_labels(test))
    return {f"{protocol.name}/{name}": value for name, value in found.items()}
