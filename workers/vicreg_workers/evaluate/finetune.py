"""Runs the protocol ``finetune``: encoder and classifier together."""

from __future__ import annotations

from vicreg_platform.specs import FinetuneProtocol
from vicreg_workers.evaluate.evaluation import Evaluation
from vicreg_workers.selfsup.evaluation.finetune import finetune


def evaluate_finetune(evaluation: Evaluation, protocol: FinetuneProtocol) -> dict[str, float]:
    """Train the encoder with a classifier on the training images, and classify the test images.

    Raises:
        UserFailure: images have several labels each.
    """
    evaluation.require_one_label(protocol.name)
    trained = protocol.epochs * len(evaluation.train_images)
    progress = evaluation.progress(trained + len(evaluation.test_images))
    network = finetune(
        evaluation.encoder,
        evaluation.train_images,
        protocol,
        image_size=evaluation.image_size,
        device=evaluation.device,
        loaders=evaluation.loaders,
        interpolation=evaluation.interpolation,
        hold=evaluation.hold,
        progress=progress.report,
        autocast=evaluation.autocast,
    )
    test = evaluation.outputs_on_test(network, progress, already_done=trained)
    return evaluation.accuracy(protocol.name, test.representations, test)
