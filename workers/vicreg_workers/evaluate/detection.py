"""Runs the protocol ``detection``: objects, their classes and their masks."""

from __future__ import annotations

import logging

from vicreg_platform.specs import DetectionProtocol
from vicreg_workers.evaluate.evaluation import Evaluation
from vicreg_workers.selfsup.data.dense.boxed_batches import (
    plain_boxed_batches,
    random_boxed_batches,
)
from vicreg_workers.selfsup.data.dense.boxed_images import BoxedImages
from vicreg_workers.selfsup.data.drawn_batches import batch_count
from vicreg_workers.selfsup.evaluation.detection import (
    measure_detection,
    train_detector,
)
from vicreg_workers.selfsup.evaluation.detection_picture import detection_picture

logger = logging.getLogger(__name__)


def evaluate_detection(evaluation: Evaluation, protocol: DetectionProtocol) -> dict[str, float]:
    """Fine-tune the encoder as the backbone of a detector, and find the objects of the test images.

    Stores the figure ``pictures/detection.png``.

    Raises:
        InvalidInput: the encoder is not a residual network, or the objects are of other classes.
    """
    train, test = evaluation.train_images, evaluation.test_images
    assert isinstance(train, BoxedImages)
    assert isinstance(test, BoxedImages)
    test = test.numbered_as(train.categories)
    train.masks = test.masks = protocol.masks
    classes = len(train.categories)
    logger.info("%d classes", classes)
    trained = protocol.epochs * len(train)
    progress = evaluation.progress(trained + len(test))
    batches = random_boxed_batches(
        train,
        image_size=evaluation.image_size,
        batch_size=protocol.batch_size,
        seed=protocol.seed,
        epochs=protocol.epochs,
        loaders=evaluation.loaders,
        interpolation=evaluation.interpolation,
        pinned=evaluation.pinned,
    )
    steps = batch_count(len(train), protocol.epochs, protocol.batch_size)
    network, corrupt = train_detector(
        evaluation.encoder,
        batches,
        steps,
        classes,
        protocol,
        evaluation.device,
        progress.report,
        evaluation.autocast,
    )
    result = measure_detection(
        network,
        plain_boxed_batches(
            test,
            image_size=evaluation.test_size,
            batch_size=protocol.batch_size,
            loaders=evaluation.loaders,
            interpolation=evaluation.interpolation,
            pinned=evaluation.pinned,
        ),
        protocol.masks,
        evaluation.device,
        lambda done: progress.report(trained + done),
    )
    evaluation.leave_out(train, corrupt)
    evaluation.leave_out(test, result.corrupt)
    figure = detection_picture(result.examples, train.categories)
    evaluation.file("pictures/detection.png", figure)
    metrics = {f"detection/{name}": value for name, value in result.boxes.items()}
    for name, value in (result.masks or {}).items():
        metrics[f"detection/mask_{name}"] = value
    return metrics
