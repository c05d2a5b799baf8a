"""What healthy and broken trainings look like: ``python -m tests.benchmarks.health``.

Trains a small network on scikit-learn's digits, healthy with every augmentation preset and several
seeds, and broken on purpose. Prints for each run which findings it has, and since when. With
``--write``, stores the reference bands that the rules compare with, and the curves of the unit
tests.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vicreg_platform.specs import DigitsData, PretrainSpec, parse_spec
from vicreg_workers.selfsup.context import NullContext
from vicreg_workers.selfsup.data.decoding import AnyPicture, DecodedPicture
from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.data.sources import Digits, Subset
from vicreg_workers.selfsup.errors import Diverged
from vicreg_workers.selfsup.monitor import health as rules
from vicreg_workers.selfsup.monitor.health import BANDS, QUANTITIES, Health
from vicreg_workers.selfsup.monitor.start import StartWatch
from vicreg_workers.selfsup.train import Pretraining

Run = dict[str, Any]
"""The spec of a run, its steps, its points and why it diverged, if it did."""
REFERENCE = Path(rules.__file__).with_name("reference.json")
CURVES = Path(__file__).parents[1] / "unit" / "selfsup" / "monitor" / "curves.json"
USED = {
    "train/loss", "train/invariance", "train/covariance", "train/gradient_norm",
    "embedding/std_mean", "embedding/rankme", "knn/top1",
}  # fmt: skip
QUERIES = 359
"""Images that are classified by nearest neighbours: a quarter of 1,437."""

PRESETS = ("vicreg", "cifar")
SEEDS = (0, 1)
EPOCHS = 16
SPEC: dict[str, Any] = {
    "kind": "pretrain",
    "backbone": {"name": "resnet10", "stem": "cifar"},
    "expander": {"layers": [256, 256, 256]},
    "data": {"source": "digits", "image_size": 8},
    # Few steps: LARS with solo-learn's trust coefficient for small images.
    "optimizer": {"name": "lars", "base_lr": 1.0, "eta": 0.02},
    "training": {"epochs": EPOCHS, "batch_size": 128, "warmup_epochs": 1},
    "watch": {"collapse_std": 0.0, "knn_every_epochs": 3, "patience": 2},
}
WEAKEST = {
    "crop_scale": [1.0, 1.0],
    "horizontal_flip": 0.0,
    "color_jitter": 0.0,
    "grayscale": 0.0,
    "blur": [0.0, 0.0],
    "solarize": [0.0, 0.0],
}


class Constant(Subset):
    """Every image is grey."""

    def open(self, index: int) -> AnyPicture:
        return DecodedPicture(Image.new("RGB", (8, 8), (128, 128, 128)))


def shuffled(images: Images) -> Images:
    """The same images with each other's labels."""
    mixed = Subset(images, range(len(images)))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tolist()
    mixed.labels = [images.labels[index] for index in order]
    return mixed


def constant(images: Images) -> Images:
    """As many grey images."""
    return Constant(images, range(len(images)))


def unchanged(images: Images) -> Images:
    """The images."""
    return images


BROKEN: dict[str, tuple[dict[str, Any], Callable[[Images], Images]]] = {
    "no variance term": ({"method": {"variance": 0.0}}, unchanged),
    "no covariance term": ({"method": {"covariance": 0.0}}, unchanged),
    "no invariance term": ({"method": {"invariance": 0.0}}, unchanged),
    "covariance × 100": ({"method": {"covariance": 100.0}}, unchanged),
    "rate × 5": ({"optimizer": {"base_lr": 5.0}}, unchanged),
    "rate × 100": ({"optimizer": {"base_lr": 100.0}}, unchanged),
    "batch of 4": ({"training": {"batch_size": 4, "epochs": 3, "warmup_epochs": 0}}, unchanged),
    "no augmentation": ({"augmentation": WEAKEST}, unchanged),
    "constant images": ({}, constant),
    "labels shuffled": ({}, shuffled),
}
"""What is changed in the spec and in the images of each run that is broken on purpose."""


class Curves(NullContext):
    """Keeps every metric with its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.points: list[tuple[int, dict[str, float]]] = []

    def metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.points.append((step, dict(metrics)))


def spec_of(changes: Mapping[str, Any], preset: str, seed: int) -> PretrainSpec:
    """The spec of a run, with some sections changed."""
    request = SPEC | {name: SPEC.get(name, {}) | value for name, value in changes.items()}
    request["augmentation"] = {"preset": preset} | changes.get("augmentation", {})
    request["training"] = request["training"] | {"seed": seed}
    spec = parse_spec(request)
    assert isinstance(spec, PretrainSpec)
    return spec


def trained(spec: PretrainSpec, images: Images) -> Run:
    """The curves of a run, which may diverge."""
    curves, end = Curves(), ""
    pretraining = Pretraining(spec, images, curves)
    try:
        pretraining.run()
    except Diverged as error:
        end = str(error)
    return {
        "spec": spec.model_dump(mode="json"),
        "steps": pretraining.progress.steps,
        "points": curves.points,
        "diverged": end,
    }


def findings(run: Run) -> dict[str, tuple[int, int | None, str]]:
    """What the rules say of a run: by finding, the first and the last step of it, and its words.

    The last step is None if it stands at the end.
    """
    spec = parse_spec(run["spec"])
    assert isinstance(spec, PretrainSpec)
    found: dict[str, tuple[int, int | None, str]] = {}
    now = 0

    def finding(name: str, text: str | None) -> None:
        if text is not None:
            found[name] = (found[name][0] if name in found else now, None, text)
        elif name in found and found[name][1] is None:
            found[name] = (found[name][0], now, found[name][2])

    health = Health(spec, run["steps"], finding)
    start = StartWatch(spec.watch.patience, from_weights=False)
    for step, metrics in run["points"]:
        now = step
        health.note(step, metrics)
        if "knn/top1" in metrics and step == 0:
            start.begin(metrics["knn/top1"], QUERIES)
        elif "knn/top1" in metrics:
            finding(start.name, start.note(step, metrics["knn/top1"]))
    return found


def quantity_curve(run: Run, quantity: str) -> Iterator[tuple[int, float]]:
    """The steps and values of a quantity that the rules look at."""
    for step, metrics in run["points"]:
        value = QUANTITIES[quantity].of(metrics)
        if value is not None:
            yield step, value


def band(runs: list[Run], quantity: str) -> list[tuple[float, float]]:
    """The lowest and highest value in each part of the runs; that of the next part if none."""
    values: list[list[float]] = [[] for _ in range(BANDS)]
    for run in runs:
        for step, value in quantity_curve(run, quantity):
            values[min(BANDS - 1, step * BANDS // run["steps"])].append(value)
    for part in reversed(range(BANDS - 1)):
        values[part] = values[part] or values[part + 1]
    return [(float(f"{min(each):.3g}"), float(f"{max(each):.3g}")) for each in values]


def write(raw: Mapping[str, Run]) -> None:
    """Store the reference bands of the package, and the curves of the unit tests."""
    reference = {
        "runs": f"tests/benchmarks/health.py: digits at 8 pixels, resnet10, {len(SEEDS)} seeds",
        "bands": {
            preset: {
                quantity: band([raw[f"healthy {preset} {seed}"] for seed in SEEDS], quantity)
                for quantity in QUANTITIES
            }
            for preset in PRESETS
        },
    }
    REFERENCE.write_text(json.dumps(reference, indent=1) + "\n")
    CURVES.write_text(
        json.dumps(
            {
                name: run
                | {
                    "points": [
                        (step, {key: float(f"{metrics[key]:.4g}") for key in USED & set(metrics)})
                        for step, metrics in run["points"]
                        if USED & set(metrics)
                    ]
                }
                for name, run in raw.items()
            },
            sort_keys=True,
        )
        + "\n"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", type=Path, help="all curves: those it has are not made again")
    parser.add_argument("--runs", nargs="*", help="part of the names of those to make")
    parser.add_argument("--write", action="store_true", help="store bands and curves")
    settings = parser.parse_args(arguments)
    torch.set_num_threads(1)
    digits = Digits(DigitsData(source="digits"))
    runs: dict[str, tuple[dict[str, Any], str, int, Callable[[Images], Images]]] = {
        f"healthy {preset} {seed}": ({}, preset, seed, unchanged)
        for preset in PRESETS
        for seed in SEEDS
    } | {
        f"{name} (cifar)": (changes, "cifar", 0, change)
        for name, (changes, change) in BROKEN.items()
    }
    raw: dict[str, Run] = {}
    if settings.raw and settings.raw.exists():
        raw = json.loads(settings.raw.read_text())
    for name, (changes, preset, seed, change) in runs.items():
        if name in raw or (settings.runs and not any(part in name for part in settings.runs)):
            continue
        raw[name] = trained(spec_of(changes, preset, seed), change(digits))
        if settings.raw:
            settings.raw.write_text(json.dumps(raw))
    if settings.write:
        write(raw)
    print("| run | findings, and the steps from and to which they stand | kNN: start, end |")
    print("|---|---|---|")
    for name, run in raw.items():
        found = [
            f"{rule} {first}–{last or 'end'}" for rule, (first, last, _) in findings(run).items()
        ]
        top1 = [metrics["knn/top1"] for _, metrics in run["points"] if "knn/top1" in metrics]
        knn = f"{top1[0]:.2f}, {top1[-1]:.2f}" if top1 else "-"
        if run["diverged"]:
            found.append("stopped: " + run["diverged"].partition(" (")[0])
        print(f"| {name} | {', '.join(found) or '-'} | {knn} |")


if __name__ == "__main__":
    main()
