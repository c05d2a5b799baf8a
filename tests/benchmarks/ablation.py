"""An ablation of the paper on this machine: ``python -m tests.benchmarks.ablation NAME DATA_ROOT``.

Trains the jobs of a recipe such as ``ablation-loss-small`` one after the other, without the
service. Prints one table row per job: the spread of the embedding, and the accuracy of nearest
neighbours on the test images, by the representation and by the embedding.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from vicreg_platform.data_root import resolve_inside
from vicreg_platform.recipes import recipe_text
from vicreg_platform.specs import PretrainSpec, parse_spec
from vicreg_platform.specs.overrides import overridden
from vicreg_workers.selfsup.context import NullContext
from vicreg_workers.selfsup.data.sources import open_images
from vicreg_workers.selfsup.evaluation.features import extract_features
from vicreg_workers.selfsup.evaluation.knn import knn_scores
from vicreg_workers.selfsup.evaluation.metrics import top_k_accuracy
from vicreg_workers.selfsup.train import Pretraining

NEIGHBOURS, TEMPERATURE = 20, 0.07


class LastMetrics(NullContext):
    """Keeps the last value of each metric."""

    def __init__(self) -> None:
        super().__init__()
        self.last: dict[str, float] = {}

    def metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.last.update(metrics)


def ablation(name: str) -> list[dict[str, Any]]:
    """The specs of a recipe that holds several, as data."""
    return list(yaml.safe_load_all(recipe_text(name)))


def knn(encoder: nn.Module, spec: PretrainSpec, data_root: Path) -> float:
    """Top-1 accuracy of nearest neighbours on the test images."""
    test = spec.data.test_set()
    assert test is not None
    locate = partial(resolve_inside, data_root)
    sets = [open_images(data, locate) for data in (spec.data, test)]
    train, held_out = (
        extract_features(encoder, images, spec.data.image_size, torch.device("cpu"))
        for images in sets
    )
    scores = knn_scores(
        train, held_out.representations, NEIGHBOURS, TEMPERATURE, len(sets[0].classes)
    )
    return top_k_accuracy(scores, held_out.labels, 1)


def row(content: dict[str, Any], data_root: Path) -> str:
    """Train one job and measure it: a row of the table."""
    spec = parse_spec(content)
    assert isinstance(spec, PretrainSpec)
    context = LastMetrics()
    started = time.monotonic()
    images = open_images(spec.data, partial(resolve_inside, data_root))
    pretraining = Pretraining(spec, images, context)
    backbone = pretraining.run()
    seconds = time.monotonic() - started
    whole = nn.Sequential(backbone, pretraining.network.expander).eval()
    metrics = context.last
    return (
        f"| {spec.name} | {metrics['embedding/std_mean']:.4f} "
        f"| {metrics['embedding/std_low_share']:.2f} | {metrics['representation/rankme']:.0f} "
        f"| {knn(backbone, spec, data_root):.3f} | {knn(whole, spec, data_root):.3f} "
        f"| {seconds:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="such as ablation-loss-small")
    parser.add_argument("data_root", type=Path)
    parser.add_argument("jobs", nargs="*", help="default: all of the recipe")
    parser.add_argument("--epochs", type=int, help="default: the recipe's")
    parser.add_argument("--optimizer", type=json.loads, help="JSON that replaces the recipe's")
    settings = parser.parse_args()
    print(
        "| job | std of the embedding: mean | share below 0.1 | RankMe | kNN top-1, representation "
        "| kNN top-1, embedding | seconds |\n|---|---|---|---|---|---|---|"
    )
    for content in ablation(settings.name):
        if settings.jobs and content["name"] not in settings.jobs:
            continue
        if settings.epochs:
            content = overridden(content, {"training.epochs": settings.epochs})
        if settings.optimizer:
            content = content | {"optimizer": settings.optimizer}
        print(row(content, settings.data_root), flush=True)


if __name__ == "__main__":
    main()
