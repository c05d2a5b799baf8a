"""Images per second of a training step and of its input, against two public implementations.

``python -m tests.benchmarks.step`` prints the tables of docs/performance.md: (a) the authors' step
(``main_vicreg.py`` and ``augmentations.py`` of facebookresearch/vicreg, rewritten here), (b)
lightly's parts combined as in its documentation, and ours, on the same images, backbone, batch
and threads, in turn within one run. The images are in memory for all three. lightly is not part
of the environment: ``make bench`` installs it beside it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from tests.benchmarks.loss import authors_loss
from vicreg_platform.specs import DigitsData, PretrainSpec, parse_spec
from vicreg_workers.selfsup.context import NullContext
from vicreg_workers.selfsup.data.decoding import DecodedPicture
from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.data.sources import Digits, Subset
from vicreg_workers.selfsup.model import precision
from vicreg_workers.selfsup.monitor.representation import Diagnostics
from vicreg_workers.selfsup.train import Pretraining

IMAGES = 1024
SETS = (3_000, 50_000)
"""Sizes of training sets whose measurements between epochs are timed."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Step = Callable[[], object]


class Photographs(Images):
    """Digits in colour at the size of the benchmark, decoded."""

    several: Tensor | None = None

    def __init__(self, size: int) -> None:
        digits = Digits(DigitsData(source="digits"))
        self.labels: Sequence[int] = digits.labels[:IMAGES]
        self.classes = digits.classes
        self._images = [
            digits.read(index).resize((size, size), Image.Resampling.BICUBIC)
            for index in range(IMAGES)
        ]

    def __len__(self) -> int:
        return IMAGES

    def open(self, index: int) -> DecodedPicture:
        return DecodedPicture(self._images[index])

    def name(self, index: int) -> str:
        return str(index)


class PilBatches:
    """Batches of two views, by transforms of single PIL images."""

    def __init__(
        self, images: Photographs, views: Callable[[Image.Image], Any], batch: int
    ) -> None:
        self._images, self._views, self._batch = images, views, batch

    def __call__(self) -> tuple[Tensor, Tensor]:
        chosen = torch.randperm(IMAGES)[: self._batch].tolist()
        pairs = [self._views(self._images.read(index)) for index in chosen]
        first, second = zip(*pairs, strict=True)
        return torch.stack(first), torch.stack(second)


class Blur:
    """PIL's blur with a random radius, as the authors' ``GaussianBlur``."""

    def __init__(self, probability: float) -> None:
        self._probability = probability

    def __call__(self, image: Image.Image) -> Image.Image:
        from PIL import ImageFilter

        if torch.rand(()) >= self._probability:
            return image
        return image.filter(ImageFilter.GaussianBlur(float(torch.rand(())) * 1.9 + 0.1))


def authors_views(size: int) -> Callable[[Image.Image], Any]:
    def view(blur: float, solarize: float) -> transforms.Compose:
        return transforms.Compose(
            [
                transforms.RandomResizedCrop(size, interpolation=InterpolationMode.BICUBIC),
                transforms.RandomHorizontalFlip(p=0.5),
                transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
                transforms.RandomGrayscale(p=0.2),
                Blur(blur),
                transforms.RandomSolarize(128, solarize),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    first, second = view(1.0, 0.0), view(0.1, 0.2)
    return lambda image: (first(image), second(image))


class AuthorsLars(torch.optim.Optimizer):
    """LARS, one parameter after the other, as in the authors' code."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": 1e-6, "momentum": 0.9})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                update = parameter.grad
                if parameter.ndim > 1:
                    update = update.add(parameter, alpha=group["weight_decay"])
                    size, change = torch.norm(parameter), torch.norm(update)
                    one = torch.ones_like(size)
                    ratio = torch.where(change > 0, 0.001 * size / change, one)
                    update = update.mul(torch.where(size > 0, ratio, one))
                state = self.state[parameter]
                momentum = state.setdefault("mu", torch.zeros_like(parameter))
                momentum.mul_(group["momentum"]).add_(update)
                parameter.add_(momentum, alpha=-group["lr"])


def backbone(name: str) -> nn.Module:
    network: nn.Module = getattr(torchvision.models, name)(zero_init_residual=True)
    network.fc = nn.Identity()
    return network


def projector(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.BatchNorm1d(width),
        nn.ReLU(True),
        nn.Linear(width, width),
        nn.BatchNorm1d(width),
        nn.ReLU(True),
        nn.Linear(width, width, bias=False),
    )


def reference(
    batches: PilBatches,
    network: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: Any,
    settings: argparse.Namespace,
) -> Step:
    """A plain step: views, two forward passes, loss, backward, update."""
    device = torch.device(settings.device)
    network.to(device).train()

    def step() -> None:
        first, second = (view.to(device, non_blocking=True) for view in batches())
        optimizer.zero_grad()
        with autocast(settings):
            value = loss(network(first), network(second))
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def autocast(settings: argparse.Namespace) -> AbstractContextManager[object]:
    return precision.autocast(settings.precision, torch.device(settings.device))


def authors(images: Photographs, settings: argparse.Namespace) -> tuple[Step, PilBatches]:
    batches = PilBatches(images, authors_views(settings.size), settings.batch)
    encoder = backbone(settings.backbone)
    network = nn.Sequential(encoder, projector(settings.features, settings.width))
    optimizer = AuthorsLars(network.parameters(), 0.3)
    return reference(batches, network, authors_loss, optimizer, settings), batches


def lightly(images: Photographs, settings: argparse.Namespace) -> tuple[Step, PilBatches] | None:
    try:
        from lightly.loss.vicreg_loss import VICRegLoss  # type: ignore[import-not-found]
        from lightly.models.modules.heads import (  # type: ignore[import-not-found]
            VICRegProjectionHead,
        )
        from lightly.transforms.vicreg_transform import (  # type: ignore[import-not-found]
            VICRegTransform,
        )
    except ImportError:
        print("lightly is not installed: skipped\n")
        return None
    batches = PilBatches(images, VICRegTransform(input_size=settings.size), settings.batch)
    head = VICRegProjectionHead(settings.features, settings.width, settings.width, num_layers=3)
    network = nn.Sequential(backbone(settings.backbone), head)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.06)
    return reference(batches, network, VICRegLoss(), optimizer, settings), batches


def spec_of(settings: argparse.Namespace) -> PretrainSpec:
    spec = parse_spec(
        {
            "kind": "pretrain",
            "backbone": {"name": settings.backbone},
            "expander": {"layers": [settings.width] * 3},
            "data": {"source": "digits", "image_size": settings.size},
            "training": {
                "epochs": 1_000,
                "batch_size": settings.batch,
                "precision": settings.precision,
                "compile": settings.compile,
            },
            "watch": {"collapse_std": 0.0},
        }
    )
    assert isinstance(spec, PretrainSpec)
    return spec


def ours(images: Photographs, settings: argparse.Namespace) -> tuple[Step, Step, Pretraining]:
    pretraining = Pretraining(spec_of(settings), images, NullContext(torch.device(settings.device)))
    pretraining.network.train()

    def batches() -> Any:
        epoch = 0
        while True:
            yield from pretraining.batches.epoch(epoch)
            epoch += 1

    stream = batches()

    def step() -> None:
        losses, _ = pretraining.step(next(stream))
        if settings.device == "cpu":
            pretraining.check(losses)

    return step, lambda: next(stream), pretraining


def timed(step: Step, settings: argparse.Namespace) -> float:
    started = time.perf_counter()
    step()
    if settings.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def compare(steps: dict[str, Step], settings: argparse.Namespace, title: str) -> float:
    """Print how long each takes; return ours, in seconds."""
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(settings.rounds):
        for name, step in steps.items():
            times[name].append(timed(step, settings))
    middle = {name: statistics.median(values) for name, values in times.items()}
    for name, seconds in middle.items():
        rate = settings.batch / seconds
        print(
            f"| {title} | {name} | {seconds * 1e3:.0f} | {rate:.0f} "
            f"| {seconds / middle['ours']:.2f} |",
            flush=True,
        )
    return middle["ours"]


def diagnoses(pretraining: Pretraining, step_seconds: float, settings: argparse.Namespace) -> None:
    """Print the cost of the measurements between epochs, as a share of the training."""
    images = Photographs(settings.size)
    device = torch.device(settings.device)
    print("\n| images of the training set | measured every … epochs | ms | share of the training |")
    print("|---|---|---|---|")
    for count in SETS:
        repeated = Subset(images, [index % IMAGES for index in range(count)])
        diagnostics = Diagnostics(
            repeated, settings.size, device, 0, lambda: autocast(settings), epochs=100
        )
        measure = partial(diagnostics.of, pretraining.network, True)
        measure()
        seconds = statistics.median(timed(measure, settings) for _ in range(3))
        every = diagnostics.every_epochs
        share = seconds / (every * (count // settings.batch) * step_seconds)
        print(f"| {count} | {every} | {seconds * 1e3:.0f} | {share:.4f} |", flush=True)


def parts(pretraining: Pretraining, settings: argparse.Namespace) -> None:
    """Print where the time of our step goes."""
    spent: dict[str, float] = {}

    def clocked(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            if settings.device == "cuda":
                torch.cuda.synchronize()
            started = time.perf_counter()
            result = call(*arguments, **named)
            if settings.device == "cuda":
                torch.cuda.synchronize()
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - started
            return result

        return run

    optimizer = pretraining.update.optimizer
    pretraining.forward = clocked("forward", pretraining.forward)
    pretraining.loss = clocked(  # type: ignore[assignment]
        "loss", pretraining.loss
    )
    optimizer.step = clocked("optimiser", optimizer.step)  # type: ignore[method-assign]
    backward = Tensor.backward
    Tensor.backward = clocked("backward", backward)  # type: ignore[method-assign]
    norm = torch.nn.utils.get_total_norm
    watch = clocked("watch", norm)
    torch.nn.utils.get_total_norm = watch
    check = clocked("watch", pretraining.check)
    stream = pretraining.batches.epoch(0)
    rounds = min(settings.rounds, IMAGES // settings.batch)
    started = time.perf_counter()
    for _ in range(rounds):
        batch = clocked("input", lambda: next(stream))()
        losses, _ = pretraining.step(batch)
        check(losses)
    total = time.perf_counter() - started
    Tensor.backward = backward  # type: ignore[method-assign]
    torch.nn.utils.get_total_norm = norm
    spent["the rest"] = total - sum(spent.values())
    for name, seconds in spent.items():
        print(f"| {name} | {seconds / rounds * 1e3:.1f} | {seconds / total:.3f} |")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    settings = parser.parse_args(arguments)
    images = Photographs(settings.size)
    print(
        f"\n{settings.backbone}, {settings.size}×{settings.size}, batch {settings.batch}, expander "
        f"{settings.width}³, {settings.precision}, {torch.get_num_threads()} threads, "
        f"{settings.device}\n\n| | | ms | images/s | time, as a ratio to ours |\n"
        "|---|---|---|---|---|"
    )
    step, batch, pretraining = ours(images, settings)
    compared = {"authors": authors(images, settings), "lightly": lightly(images, settings)}
    steps = {name: pair[0] for name, pair in compared.items() if pair}
    inputs = {name: pair[1] for name, pair in compared.items() if pair}
    compare(inputs | {"ours": batch}, settings, "input")
    step_seconds = compare(steps | {"ours": step}, settings, "step")
    print("\n| part of our step | ms | share |\n|---|---|---|")
    parts(pretraining, settings)
    diagnoses(pretraining, step_seconds, settings)


if __name__ == "__main__":
    main()
