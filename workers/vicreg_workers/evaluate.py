"""An evaluate spec, in one process."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch

from vicreg_platform.assignment import Assignment
from vicreg_platform.specs import EvaluateSpec, KnnProtocol, UntrainedEncoder
from vicreg_workers.context import Progress
from vicreg_workers.encoder import load_encoder
from vicreg_workers.environment import environment_tags
from vicreg_workers.failures import UserFailure
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
    run_log = RunLog(assignment.tracking_uri, assignment.run_id, resumed=assignment.attempt > 1)
    run_log.tags(environment_tags(device) | {"vicreg.attempt": str(assignment.attempt)})
    try:
        run_log.metrics(_measure(assignment, spec, run_log, device), step=0)
    finally:
        run_log.close()


def _measure(
    assignment: Assignment, spec: EvaluateSpec, run_log: RunLog, device: torch.device
) -> dict[str, float]:
    root = Path(assignment.data_root)
    train_images = open_images(spec.data.train, root)
    test_images = open_images(spec.data.test, root)
    backbone = load_encoder(
        spec.encoder, assignment.encoder_run_id, assignment.tracking_uri, root
    ).to(device)
    if isinstance(spec.encoder, UntrainedEncoder):
        calibrate_batchnorm(backbone, train_images, spec.data.train.image_size, device)
    total = len(train_images) + len(test_images)
    clock = _Clock(run_log, total)

    def features_of(images: Images, image_size: int, before: int) -> Features:
        return extract_features(
            backbone, images, image_size, device, lambda done, _: clock.at(before + done)
        )

    train = features_of(train_images, spec.data.train.image_size, 0)
    test = features_of(test_images, spec.data.test.image_size, len(train_images))
    classes = max(train.classes, test.classes)
    metrics = {"data/corrupt_images": float(train.corrupt + test.corrupt)}
    protocol = spec.protocol
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
    if scores.isnan().any():
        raise UserFailure("the encoder's representations are not finite: its weights are broken")
    for k in (1, 5):
        metrics[f"{protocol.name}/top{k}"] = top_k_accuracy(scores, test.labels, k)
    logger.info("%s", ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    return metrics


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
