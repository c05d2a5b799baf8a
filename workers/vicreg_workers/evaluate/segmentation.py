"""Runs the protocol ``segmentation``: a class for each pixel."""

from __future__ import annotations

import logging

from vicreg_platform.specs import SegmentationProtocol
from vicreg_workers.evaluate.evaluation import Evaluation
from vicreg_workers.selfsup.data.dense.masked_batches import (
    plain_masked_batches,
    random_masked_batches,
)
from vicreg_workers.selfsup.data.dense.masked_images import MaskedImages
from vicreg_workers.selfsup.data.drawn_batches import batch_count
from vicreg_workers.selfsup.evaluation.segmentation import (
    measure_segmentation,
    train_segmentation,
)
from vicreg_workers.selfsup.evaluation.segmentation_picture import segmentation_picture
from vicreg_workers.selfsup.model.feature_map import FeatureMap

logger = logging.getLogger(__name__)


def evaluate_segmentation(
    evaluation: Evaluation, protocol: SegmentationProtocol
) -> dict[str, float]:
    """Train a head on the encoder's feature map, and segment the test images.

    Stores the figure ``pictures/segmentation.png``.

    Raises:
        InvalidInput: the masks do not fit the images or the number of classes.
    """
    train, test, encoder = evaluation.train_images, evaluation.test_images, evaluation.encoder
    assert isinstance(train, MaskedImages)
    assert isinstance(test, MaskedImages)
    assert isinstance(encoder, FeatureMap)
    classes = train.class_count()
    logger.info("%d classes", classes)
    trained = protocol.epochs * len(train)
    progress = evaluation.progress(trained + len(test))
    batches = random_masked_batches(
        train,
        classes,
        image_size=evaluation.image_size,
        batch_size=protocol.batch_size,
        seed=protocol.seed,
        epochs=protocol.epochs,
        loaders=evaluation.loaders,
        interpolation=evaluation.interpolation,
        pinned=evaluation.pinned,
    )
    steps = batch_count(len(train), protocol.epochs, protocol.batch_size)
    network, corrupt = train_segmentation(
        encoder,
        batches,
        steps,
        classes,
        protocol,
        evaluation.device,
        progress.report,
        evaluation.autocast,
    )
    result = measure_segmentation(
        network,
        plain_masked_batches(
            test,
            classes,
            image_size=evaluation.test_size,
            batch_size=protocol.batch_size,
            loaders=evaluation.loaders,
            interpolation=evaluation.interpolation,
            pinned=evaluation.pinned,
        ),
        classes,
        evaluation.device,
        lambda done: progress.report(trained + done),
        evaluation.autocast,
    )
    evaluation.leave_out(train, corrupt)
    evaluation.leave_out(test, result.corrupt)
    evaluation.file("pictures/segmentation.png", segmentation_picture(result.examples))
    return {
        "segmentation/miou": result.miou,
        "segmentation/pixel_accuracy": result.pixel_accuracy,
    }
