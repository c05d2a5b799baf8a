"""An evaluate spec, in one process."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch

from vicreg_platform.assignment import Assignment
from vicreg_platform.progress import Progress
from vicreg_platform.specs import EvaluateSpec, KnnProtocol, UntrainedEncoder
from vicreg_workers.encoder import load_encoder
from vicreg_workers.environment import environment_tags
from vicreg_workers.failures import UserFailure
from vicreg_workers.memory import naming_out_of_memory
from vicreg_workers.run_log import RunLog
from vicreg_workers.selfsup.accuracy import top_k_accuracy
from vicreg_workers.selfsup.features import Features, calibrate_batchnorm, extract_features
from vicreg_workers.selfsup.images import Images, open_images
from vicreg_workers.selfsup.knn import knn_scores
from vicreg_workers.selfsup.linear import linear_probe

logger = logging.getLogger(__name__)


def evaluate(assignment: Assignment) -> None:
    """Run an attempt of an evaluation job to its end.

    Raises:
        JobFailure: with its class.
    """
    spec = assignment.spec
    assert isinstance(spec, EvaluateSpec)
    device = torch.device("cuda" if spec.resources.gpus else "cpu")
    torch.set_num_threads(spec.resources.cpus)
    with RunLog(
        assignment.tracking_uri, assignment.run_id, resumed=assignment.attempt > 1
    ) as run_log:
        run_log.tags(environment_tags(device) | {"vicreg.attempt": str(assignment.attempt)})
        with naming_out_of_memory("free the GPU, or evaluate on CPUs with resources.gpus 0"):
            run_log.metrics(_measure(assignment, spec, run_log, device), step=0)


def _measure(
    assignment: Assignment, spec: EvaluateSpec, run_log: RunLog, device: torch.device
) -> dict[str, float]:
    root = Path(assignment.data_root)
    train_images = open_images(spec.data.train, root)
    test_images = open_images(spec.data.test, root)
    same_classes = _classes_in_train(train_images, test_images)
    backbone = load_encoder(
        spec.encoder,
        spec.data.train.image_size,
        assignment.encoder_run_id,
        assignment.tracking_uri,
        root,
    ).to(device)
    # With one CPU this process reads the images itself.
    loaders = spec.resources.cpus - 1
    if isinstance(spec.encoder, UntrainedEncoder):
        calibrate_batchnorm(backbone, train_images, spec.data.train.image_size, device, loaders)
    clock = _Clock(run_log, len(train_images) + len(test_images))

    def features_of(images: Images, image_size: int, before: int) -> Features:
        return extract_features(
            backbone, images, image_size, device, loaders, lambda done: clock.at(before + done)
        )

    train = features_of(train_images, spec.data.train.image_size, 0)
    test = features_of(test_images, spec.data.test.image_size, len(train_images))
    labels = same_classes.to(device)[test.labels]
    for images, features in ((train_images, train), (test_images, test)):
        for index in features.corrupt:
            logger.warning("left out an image that cannot be read: %s", images.name(index))
    metrics = {"data/corrupt_images": float(len(train.corrupt) + len(test.corrupt))}
    classes, protocol = len(train_images.classes), spec.protocol
    if not train.representations.isfinite().all() or not test.representations.isfinite().all():
        raise UserFailure("the encoder's representations are not finite: its weights are broken")
    if isinstance(protocol, KnnProtocol):
        k = min(protocol.k, len(train.labels))
        if k < protocol.k:
            logger.warning("protocol.k is %d, but only %d images vote: all do", protocol.k, k)
        scores = knn_scores(train, test.representations, k, protocol.temperature, classes)
    else:
        result = linear_probe(train, test.representations, protocol, classes)
        scores = result.scores
        metrics["linear/learning_rate"] = result.learning_rate
        metrics["linear/holdout_top1"] = result.holdout_top1[result.learning_rate]
    for k in (1, 5):
        metrics[f"{protocol.name}/top{k}"] = top_k_accuracy(scores, labels, k)
    logger.info("%s", ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    return metrics


def _classes_in_train(train: Images, test: Images) -> torch.Tensor:
    """For each class of the test images, the index of the training class of the same name.

    Raises:
        UserFailure: test images of a class that there is nothing to learn from.
    """
    unknown = sorted({test.classes[label] for label in test.labels} - set(train.classes))
    if unknown:
        raise UserFailure(
            f"data.test holds classes that data.train does not: {', '.join(unknown[:5])}"
        )
    index = {name: number for number, name in enumerate(train.classes)}
    return torch.tensor([index.get(name, -1) for name in test.classes])


class _Clock:
    """Says how many images have passed the encoder."""

    def __init__(self, run_log: RunLog, total: int) -> None:
        self._run_log = run_log
        self._total = total
        self._started = time.perf_counter()

    def at(self, done: int) -> None:
        rate = done / max(time.perf_counter() - self._started, 1e-9)
        self._run_log.progress(
            Progress(
                epoch=0,
                epochs=1,
                step=done,
                steps=self._total,
                images_per_second=rate,
                eta_seconds=(self._total - done) / max(rate, 1e-9),
            )
        )
