"""An evaluate spec, in one process."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.contract.progress import Progress
from vicreg_platform.contract.tags import ATTEMPT_TAG
from vicreg_platform.data_root import resolve_inside
from vicreg_platform.specs import (
    EvaluateSpec,
    ExportProtocol,
    FinetuneProtocol,
    KnnProtocol,
    LinearProtocol,
    UntrainedEncoder,
)
from vicreg_workers.encoder import load_encoder
from vicreg_workers.failures import UserFailure, as_job_failures
from vicreg_workers.selfsup.data.sources import Images, Subset, open_images
from vicreg_workers.selfsup.data.training_batches import ViewBatches
from vicreg_workers.selfsup.evaluation.features import (
    Features,
    calibrate_batchnorm,
    extract_features,
)
from vicreg_workers.selfsup.evaluation.finetune import crops_only, finetune
from vicreg_workers.selfsup.evaluation.knn import knn_scores
from vicreg_workers.selfsup.evaluation.linear import Epoch, linear_probe
from vicreg_workers.selfsup.evaluation.metrics import mean_average_precision, top_k_accuracy
from vicreg_workers.tracking.machine import environment_tags
from vicreg_workers.tracking.outbox import Outbox

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
    with Outbox(
        assignment.tracking_uri, assignment.run_id, resumed=assignment.attempt > 1
    ) as outbox:
        outbox.tags(environment_tags(device) | {ATTEMPT_TAG: str(assignment.attempt)})
        with as_job_failures("free the GPU, or evaluate on CPUs with resources.gpus 0"):
            outbox.metrics(_measure(assignment, spec, outbox, device), step=0)


def _measure(
    assignment: Assignment, spec: EvaluateSpec, outbox: Outbox, device: torch.device
) -> dict[str, float]:
    evaluation = _Evaluation(assignment, spec, outbox, device)
    metrics = evaluation.metrics()
    logger.info("%s", ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    return metrics


class _Evaluation:
    """An encoder, the images to measure it on, and each protocol's way to."""

    def __init__(
        self, assignment: Assignment, spec: EvaluateSpec, outbox: Outbox, device: torch.device
    ) -> None:
        root = Path(assignment.data_root)
        self._spec, self._outbox, self._device = spec, outbox, device
        locate = partial(resolve_inside, root)
        self._train_images = open_images(spec.data.train, locate)
        self._test_images = open_images(spec.data.test, locate)
        self._size = spec.data.train.image_size
        # With one CPU this process reads the images itself.
        self._loaders = spec.resources.cpus - 1
        self._same_classes = _classes_in_train(self._train_images, self._test_images)
        self._backbone = load_encoder(
            spec.encoder, self._size, assignment.encoder_run_id, assignment.tracking_uri, root
        ).to(device)
        if isinstance(spec.encoder, UntrainedEncoder):
            calibrate_batchnorm(
                self._backbone, self._train_images, self._size, device, self._loaders
            )
        self._corrupt = 0

    def metrics(self) -> dict[str, float]:
        """What the protocol measures, by metric name."""
        protocol = self._spec.protocol
        if isinstance(protocol, FinetuneProtocol):
            metrics = self._finetune(protocol)
        else:
            clock = self._clock(self._both())
            train = self._features(self._backbone, self._train_images, clock, 0)
            test = self._features(self._backbone, self._test_images, clock, len(self._train_images))
            if isinstance(protocol, ExportProtocol):
                metrics = self._export(train, test)
            elif isinstance(protocol, KnnProtocol):
                metrics = self._knn(protocol, train, test)
            else:
                metrics = self._linear(protocol, train, test)
        return metrics | {"data/corrupt_images": float(self._corrupt)}

    def _both(self) -> int:
        return len(self._train_images) + len(self._test_images)

    def _clock(self, total: int) -> _Clock:
        return _Clock(self._outbox, total)

    def _features(self, network: nn.Module, images: Images, clock: _Clock, done: int) -> Features:
        features = extract_features(
            network,
            images,
            self._size if images is self._train_images else self._spec.data.test.image_size,
            self._device,
            self._loaders,
            lambda passed: clock.at(done + passed),
        )
        for index in features.corrupt:
            logger.warning("left out an image that cannot be read: %s", images.name(index))
        self._corrupt += len(features.corrupt)
        if not features.representations.isfinite().all():
            raise UserFailure(
                "the encoder's representations are not finite: its weights are broken"
            )
        return features

    def _accuracy(self, scores: Tensor, test: Features) -> dict[str, float]:
        labels = self._same_classes.to(self._device)[test.labels]
        name = self._spec.protocol.name
        return {f"{name}/top{k}": top_k_accuracy(scores, labels, k) for k in (1, 5)}

    def _knn(self, protocol: KnnProtocol, train: Features, test: Features) -> dict[str, float]:
        self._one_label_each()
        k = min(protocol.k, len(train.labels))
        if k < protocol.k:
            logger.warning("protocol.k is %d, but only %d images vote: all do", protocol.k, k)
        classes = len(self._train_images.classes)
        scores = knn_scores(train, test.representations, k, protocol.temperature, classes)
        return self._accuracy(scores, test)

    def _linear(
        self, protocol: LinearProtocol, train: Features, test: Features
    ) -> dict[str, float]:
        several = self._train_images.several
        targets = train.labels if several is None else several[train.indices].to(self._device)
        result = linear_probe(
            train,
            targets,
            test.representations,
            protocol,
            len(self._train_images.classes),
            partial(self._augmented, protocol, train) if protocol.augment else None,
        )
        metrics = {"linear/learning_rate": result.learning_rate}
        score = "top1" if several is None else "map"
        if result.holdout:
            metrics[f"linear/holdout_{score}"] = result.holdout[result.learning_rate]
        if several is None:
            return metrics | self._accuracy(result.scores, test)
        if self._test_images.several is None or self._test_images.classes != list(
            self._train_images.classes
        ):
            raise UserFailure("data.test.labels must have the classes of data.train.labels")
        truth = self._test_images.several[test.indices]
        return metrics | {"linear/map": mean_average_precision(result.scores, truth)}

    def _augmented(
        self, protocol: LinearProtocol, train: Features, places: list[int]
    ) -> Callable[[int], Epoch]:
        """Representations of random crops of the training images, anew in every epoch."""
        chosen = Subset(self._train_images, train.indices[places].tolist())
        batches = ViewBatches(
            chosen,
            crops_only(),
            views=1,
            image_size=self._size,
            batch_size=min(protocol.batch_size, len(places)),
            seed=protocol.seed,
            device=self._device,
            loaders=self._loaders,
            drop_last=False,
        )
        clock = self._clock(protocol.epochs * len(places))
        place_of = torch.tensor(places)

        @torch.no_grad()
        def epoch(number: int) -> Epoch:
            done = number * len(places)
            for batch in batches.epoch(number):
                done += len(batch.indices)
                clock.at(done)
                yield self._backbone(batch.views[0]).float(), place_of[batch.indices]

        return epoch

    def _finetune(self, protocol: FinetuneProtocol) -> dict[str, float]:
        self._one_label_each()
        clock = self._clock(protocol.epochs * len(self._train_images) + len(self._test_images))
        network = finetune(
            self._backbone,
            self._train_images,
            protocol,
            image_size=self._size,
            device=self._device,
            loaders=self._loaders,
            progress=clock.at,
        )
        done = protocol.epochs * len(self._train_images)
        test = self._features(network, self._test_images, clock, done)
        return self._accuracy(test.representations, test)

    def _export(self, train: Features, test: Features) -> dict[str, float]:
        arrays: dict[str, Tensor] = {
            "train": train.representations,
            "train_labels": train.labels,
            "test": test.representations,
            "test_labels": self._same_classes.to(self._device)[test.labels],
        }
        buffer = io.BytesIO()
        named: dict[str, Any] = {name: tensor.cpu().numpy() for name, tensor in arrays.items()}
        named["classes"] = np.array(list(self._train_images.classes))
        np.savez_compressed(buffer, **named)
        self._outbox.file("features.npz", buffer.getvalue())
        return {}

    def _one_label_each(self) -> None:
        if self._train_images.several is not None or self._test_images.several is not None:
            raise UserFailure(
                f"protocol {self._spec.protocol.name} needs one label an image: for data.labels "
                "there is protocol linear"
            )


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

    def __init__(self, outbox: Outbox, total: int) -> None:
        self._outbox = outbox
        self._total = total
        self._started = time.perf_counter()

    def at(self, done: int) -> None:
        rate = done / max(time.perf_counter() - self._started, 1e-9)
        self._outbox.progress(
            Progress(
                epoch=0,
                epochs=1,
                step=done,
                steps=self._total,
                images_per_second=rate,
                eta_seconds=(self._total - done) / max(rate, 1e-9),
            )
        )
