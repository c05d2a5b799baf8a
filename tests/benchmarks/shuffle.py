"""What the order of shards in an object store costs against a global shuffle.

``python -m tests.benchmarks.shuffle DATA_ROOT`` trains on 4,000 images of ``cifar10/train`` under
the data root, cut into 80 shards, with the same seeds and steps: in a global order, and four shards
at a time (a twentieth, as 64 of ImageNet's 1,282). In *mixed* shards the images were shuffled when
they were packed, as ``vicreg data pack`` does; in *sorted* ones, each shard is of one class. Prints
the accuracy of nearest neighbours on ``cifar10/test``.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from tests.benchmarks.ablation import LastMetrics, knn
from vicreg_platform.data_root import resolve_inside
from vicreg_platform.specs import PretrainSpec, parse_spec
from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.data.order import Groups
from vicreg_workers.selfsup.data.sources import Subset, open_images
from vicreg_workers.selfsup.train import Pretraining

SHARDS, LANES = 80, 4
WINDOW = 4
"""Shards hold so many windows each, as shards of 1,000 images do."""
SEEDS = (0, 1, 2)
EPOCHS = 8
SHARE = 0.08


def spec_of(seed: int, epochs: int, share: float) -> PretrainSpec:
    spec = parse_spec(
        {
            "kind": "pretrain",
            "backbone": {"name": "resnet10", "stem": "imagenet"},
            "expander": {"layers": [512, 512]},
            "data": {
                "source": "image_folder",
                "path": "cifar10/train",
                "image_size": 32,
                "share": share,
            },
            "augmentation": {"preset": "cifar"},
            "optimizer": {"name": "adamw", "base_lr": 2e-3},
            "training": {"epochs": epochs, "batch_size": 128, "warmup_epochs": 1, "seed": seed},
            "watch": {"knn_every_epochs": 0},
        }
    )
    assert isinstance(spec, PretrainSpec)
    return spec


def in_shards(images: Images, mixed: bool) -> Images:
    """The images as they would lie in shards of an object store."""
    count = len(images)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    cut = Subset(images, order if mixed else range(count))
    sizes = [count * (n + 1) // SHARDS - count * n // SHARDS for n in range(SHARDS)]
    cut.groups = Groups(sizes, LANES, max(1, max(sizes) // WINDOW))
    return cut


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--share", type=float, default=SHARE)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    asked = parser.parse_args(arguments)
    print("| order | kNN top-1, mean | of each seed |\n|---|---|---|")
    for name in ("global", "four mixed shards at a time", "four sorted shards at a time"):
        found = []
        for seed in asked.seeds:
            spec = spec_of(seed, asked.epochs, asked.share)
            images = open_images(spec.data, partial(resolve_inside, asked.data_root))
            if name != "global":
                images = in_shards(images, "mixed" in name)
            backbone = Pretraining(spec, images, LastMetrics()).run()
            found.append(knn(backbone, spec, asked.data_root))
        each = ", ".join(f"{value:.3f}" for value in found)
        print(f"| {name} | {statistics.mean(found):.3f} | {each} |", flush=True)


if __name__ == "__main__":
    main()
