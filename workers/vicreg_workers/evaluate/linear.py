"""Runs the protocol ``linear``: a linear classifier."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from vicreg_platform.specs import LinearProtocol
from vicreg_workers.evaluate.evaluation import Evaluation
from vicreg_workers.selfsup.data.sources import Subset
from vicreg_workers.selfsup.data.training_batches import ViewBatches
from vicreg_workers.selfsup.evaluation.features import Features
from vicreg_workers.selfsup.evaluation.finetune import crops_only
from vicreg_workers.selfsup.evaluation.linear import Epoch, linear_probe
from vicreg_workers.selfsup.evaluation.metrics import mean_average_precision


def evaluate_linear(evaluation: Evaluation, protocol: LinearProtocol) -> dict[str, float]:
    """Train a linear classifier on the frozen representations, and classify the test images.

    Images with several labels each are measured by mean average precision.

    Raises:
        UserFailure: training and test images differ in their classes.
    """
    train, test = evaluation.features()
    several = evaluation.train_images.several
    targets = train.labels if several is None else several[train.indices].to(evaluation.device)
    result = linear_probe(
        train,
        targets,
        test.representations,
        protocol,
        len(evaluation.train_images.classes),
        partial(_augmented, evaluation, protocol, train) if protocol.augment else None,
    )
    metrics = {"linear/learning_rate": result.learning_rate}
    score = "top1" if several is None else "map"
    if result.holdout:
        metrics[f"linear/holdout_{score}"] = result.holdout[result.learning_rate]
    if several is None:
        return metrics | evaluation.accuracy(protocol.name, result.scores, test)
    wanted = evaluation.several_of_test(test)
    return metrics | {"linear/map": mean_average_precision(result.scores, wanted)}


def _augmented(
    evaluation: Evaluation, protocol: LinearProtocol, train: Features, places: list[int]
) -> Callable[[int], Epoch]:
    """Representations of random crops of the training images, other crops in every epoch."""
    batches = ViewBatches(
        Subset(evaluation.train_images, train.indices[places].tolist()),
        crops_only(),
        views=1,
        image_size=evaluation.image_size,
        batch_size=min(protocol.batch_size, len(places)),
        seed=protocol.seed,
        epochs=protocol.epochs,
        device=evaluation.device,
        loaders=evaluation.loaders,
        drop_last=False,
        interpolation=evaluation.interpolation,
        hold=evaluation.hold,
    )
    progress = evaluation.progress(protocol.epochs * len(places))
    place_of = torch.tensor(places)

    @torch.no_grad()
    def epoch(number: int) -> Epoch:
        done = number * len(places)
        for batch in batches.epoch(number):
            done += len(batch.indices)
            progress.report(done)
            with evaluation.autocast():
                representations: Tensor = evaluation.encoder(batch.views[0])
            yield (
                representations.float(),
                place_of[batch.indices].to(evaluation.device, non_blocking=True),
            )

    return epoch
