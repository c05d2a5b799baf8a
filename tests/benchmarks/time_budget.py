"""What a training of CIFAR-10 reaches in a given time.

``python -m tests.benchmarks.time_budget FOLDER``, with images as ``FOLDER/{train,test}/<class>/``,
prints the accuracy of nearest neighbours before and after a training that takes as long as it is
given: as many epochs as fit, by the speed of its first steps. ResNet-18 with the CIFAR stem, the
recipes' augmentation and optimiser for CIFAR.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vicreg_platform.specs import ImageFolderData, PretrainSpec, parse_spec
from vicreg_workers.selfsup.context import NullContext
from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.data.sources import open_images
from vicreg_workers.selfsup.evaluation.features import calibrate_batchnorm, extract_features
from vicreg_workers.selfsup.evaluation.knn import knn_scores
from vicreg_workers.selfsup.evaluation.metrics import top_k_accuracy
from vicreg_workers.selfsup.model.precision import set_gpu_arithmetic
from vicreg_workers.selfsup.train import Pretraining

NEIGHBOURS, TEMPERATURE = 200, 0.07
STEPS = 40
"""Steps that are timed, after a quarter as many that are not."""


class Loaders(NullContext):
    """A context with loader processes, on a device."""

    def __init__(self, device: torch.device, loaders: int) -> None:
        super().__init__(device)
        self.loaders = loaders


def spec_of(epochs: int, settings: argparse.Namespace) -> PretrainSpec:
    spec = parse_spec(
        {
            "kind": "pretrain",
            "backbone": {"name": settings.backbone, "stem": "cifar"},
            "expander": {"layers": [settings.width] * 3},
            "data": {"source": "image_folder", "path": "train", "image_size": settings.size},
            "augmentation": {"preset": "cifar"},
            "optimizer": {"name": "lars", "preset": "cifar"},
            "training": {
                "epochs": epochs,
                "batch_size": settings.batch,
                "warmup_epochs": min(10, epochs // 2),
                "precision": "bf16" if settings.device == "cuda" else "fp32",
            },
            "watch": {"knn_every_epochs": 0},
        }
    )
    assert isinstance(spec, PretrainSpec)
    return spec


def seconds_per_epoch(images: Images, settings: argparse.Namespace) -> float:
    """By the speed of the first steps."""
    context = Loaders(torch.device(settings.device), settings.loaders)
    pretraining = Pretraining(spec_of(2, settings), images, context)
    pretraining.network.train()
    steps = min(STEPS, len(pretraining.batches))
    warm_up = steps // 4
    started = time.perf_counter()
    for number, batch in enumerate(islice(pretraining.batches.epoch(0), steps)):
        if number == warm_up:
            pretraining.check(pretraining.step(batch)[0])
            started = time.perf_counter()
        else:
            losses, _ = pretraining.step(batch)
    pretraining.check(losses)
    spent = time.perf_counter() - started
    return spent / (steps - warm_up - 1) * len(pretraining.batches)


def accuracy(
    backbone: nn.Module, train: Images, test: Images, settings: argparse.Namespace
) -> float:
    """Of the nearest neighbours of the test images, in [0, 1]."""
    device = torch.device(settings.device)
    bank, queries = (
        extract_features(backbone, images, settings.size, device, settings.loaders)
        for images in (train, test)
    )
    k = min(NEIGHBOURS, len(bank.labels))
    scores = knn_scores(bank, queries.representations, k, TEMPERATURE, len(train.classes))
    return top_k_accuracy(scores, queries.labels, 1)


def trained(settings: argparse.Namespace) -> dict[str, Any]:
    """What was reached, by name; accuracies in [0, 1]."""
    train, test = (
        open_images(
            ImageFolderData(source="image_folder", path=split, image_size=settings.size),
            lambda path: settings.images / path,
        )
        for split in ("train", "test")
    )
    device = torch.device(settings.device)
    epochs = max(2, int(settings.seconds / seconds_per_epoch(train, settings)))
    context = Loaders(device, settings.loaders)
    pretraining = Pretraining(spec_of(epochs, settings), train, context)
    backbone = pretraining.network.backbone
    calibrate_batchnorm(backbone, train, settings.size, device, settings.loaders)
    before = accuracy(backbone, train, test, settings)
    started = time.perf_counter()
    backbone = pretraining.run()
    spent = time.perf_counter() - started
    return {
        "seconds": spent,
        "epochs": epochs,
        "images_per_second": epochs * len(pretraining.batches) * settings.batch / spent,
        "untrained": before,
        "knn_top1": accuracy(backbone, train, test, settings),
    }


def table(result: dict[str, Any]) -> str:
    """What ``trained`` returns, as Markdown."""
    return (
        "| epochs | seconds | images/s | kNN, untrained | kNN |\n|---|---|---|---|---|\n"
        "| {epochs} | {seconds:.0f} | {images_per_second:.0f} | {untrained:.3f} | {knn_top1:.3f} |"
    ).format(**result)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--loaders", type=int, default=12)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=256)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    settings = parser().parse_args(arguments)
    set_gpu_arithmetic()
    print(table(trained(settings)))


if __name__ == "__main__":
    main()
