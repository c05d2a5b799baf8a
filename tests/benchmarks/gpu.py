"""A training step on a GPU, ours against the authors' and lightly's: speed, peak, memory, parts.

``python -m tests.benchmarks.gpu`` prints its tables. The others' steps are those of
``tests.benchmarks.step``, in the same precision. All train on one batch of noise that is on the
device already, so nothing is read or augmented. Times are the device's own. The peak is that of a
bf16 matrix product, measured in the same run. ``--loaders`` measures the input instead: JPEG files,
decoded and cropped by processes.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.loss import authors_loss
from tests.benchmarks.step import AuthorsLars, Photographs, autocast, backbone, projector, spec_of
from vicreg_platform.specs import Augmentation, Backbone, ImageFolderData
from vicreg_workers.selfsup.context import NullContext
from vicreg_workers.selfsup.data.sources import Subset, open_images
from vicreg_workers.selfsup.data.training_batches import Batch, ViewBatches
from vicreg_workers.selfsup.model.precision import set_gpu_arithmetic
from vicreg_workers.selfsup.train import RECORD_EVERY, Pretraining

WARM_UP = 3
JPEGS, READ = 512, 8192
"""Files that are written, and images that are read of them."""

Step = Callable[[], object]
Views = tuple[Tensor, Tensor]


class Stopwatch:
    """Adds up the time of the parts of a step, by the device's clock. Nothing waits meanwhile."""

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        self._parts: list[tuple[str, Any, Any]] = []
        self.running = False

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens as the part ``name``, if the watch is running."""
        started = self.mark()
        yield
        if self.running:
            self._parts.append((name, started, self.mark()))

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call``, counted as the part ``name``."""

        def counted(*arguments: Any, **named: Any) -> Any:
            with self.part(name):
                return call(*arguments, **named)

        return counted

    def mark(self) -> Any:
        """This moment, on the device."""
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def milliseconds(self, started: Any, ended: Any) -> float:
        """Between two moments. Waits for the device."""
        if not self._cuda:
            return float(ended - started) * 1e3
        ended.synchronize()
        return float(started.elapsed_time(ended))

    def read(self) -> dict[str, float]:
        """Milliseconds by part, since the last reading."""
        spent: dict[str, float] = {}
        for name, started, ended in self._parts:
            spent[name] = spent.get(name, 0.0) + self.milliseconds(started, ended)
        self._parts.clear()
        return spent


def views(settings: argparse.Namespace, layout: torch.memory_format) -> Views:
    shape = (settings.batch, 3, settings.size, settings.size)
    generator = torch.Generator(settings.device).manual_seed(0)
    first, second = (
        torch.randn(shape, device=settings.device, generator=generator).contiguous(
            memory_format=layout
        )
        for _ in range(2)
    )
    return first, second


@contextmanager
def authors(settings: argparse.Namespace, watch: Stopwatch) -> Iterator[Step]:
    """The authors' step: D×D matrices, one tensor's update after the other, NCHW."""
    network = reference_network(settings, partial(projector, width=settings.width))
    optimizer = AuthorsLars(network.parameters(), 0.3)
    yield reference_step(settings, watch, network, authors_loss, optimizer)


@contextmanager
def lightly(settings: argparse.Namespace, watch: Stopwatch) -> Iterator[Step]:
    """lightly's parts, combined as in its documentation.

    Raises:
        ImportError: lightly is not installed.
    """
    from lightly.loss.vicreg_loss import VICRegLoss  # type: ignore[import-not-found]
    from lightly.models.modules.heads import (  # type: ignore[import-not-found]
        VICRegProjectionHead,
    )

    width = settings.width
    network = reference_network(
        settings, lambda features: VICRegProjectionHead(features, width, width, num_layers=3)
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.06)
    yield reference_step(settings, watch, network, VICRegLoss(), optimizer)


def reference_network(
    settings: argparse.Namespace, head: Callable[[int], nn.Module]
) -> nn.Sequential:
    """torchvision's backbone and a head, given the width of its representation."""
    encoder = backbone(settings.backbone)
    if settings.stem == "cifar":
        encoder.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        encoder.maxpool = nn.Identity()
    features = 512 if settings.backbone in ("resnet18", "resnet34") else 2048
    network = nn.Sequential(encoder, head(features))
    network.to(settings.device).train()
    return network


def reference_step(
    settings: argparse.Namespace,
    watch: Stopwatch,
    network: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
) -> Step:
    first, second = views(settings, torch.contiguous_format)

    def step() -> None:
        optimizer.zero_grad()
        with autocast(settings):
            with watch.part("forward"):
                x, y = network(first), network(second)
            with watch.part("loss"):
                value = loss(x, y)
        with watch.part("backward"):
            value.backward()  # type: ignore[no-untyped-call]
        with watch.part("optimiser"):
            optimizer.step()

    return step


class Listener(NullContext):
    """Remembers whether the network could be compiled."""

    def __init__(self, device: str) -> None:
        super().__init__(torch.device(device))
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@contextmanager
def ours(settings: argparse.Namespace, watch: Stopwatch) -> Iterator[Step]:
    """Our step, with the looks at the loss that the training loop takes."""
    spec = spec_of(settings)
    stem = {"name": settings.backbone, "stem": settings.stem}
    spec = spec.model_copy(update={"backbone": Backbone.model_validate(stem)})
    context = Listener(settings.device)
    started = time.perf_counter()
    pretraining = Pretraining(spec, Photographs(settings.size), context)
    if settings.compile:
        print(f"\ncompiled in {time.perf_counter() - started:.0f} s {context.warnings}\n")
    pretraining.network.train()
    batch = Batch(
        views(settings, torch.channels_last),
        list(range(settings.batch)),
        (),
        torch.zeros(settings.batch, 2, 5),
    )
    update, norms = pretraining.update, torch.nn.utils

    def step() -> None:
        losses, _ = pretraining.step(batch)
        if pretraining.progress.step % RECORD_EVERY == 0:
            pretraining.check(losses)

    with ExitStack() as stack:
        for owner, name, part in (
            (pretraining, "forward", "forward"),
            (pretraining, "loss", "loss"),
            (Tensor, "backward", "backward"),
            (norms, "get_total_norm", "watch"),
            (update.finite, "note", "watch"),
            (update.optimizer, "step", "optimiser"),
        ):
            counted = watch.around(part, getattr(owner, name))
            stack.enter_context(patch.object(owner, name, counted))
        yield step


VARIANTS = {"authors": authors, "lightly": lightly, "ours": ours, "compiled": ours}


def measure(name: str, settings: argparse.Namespace, peak: float) -> dict[str, Any]:
    """The measures of a step, by name; times in milliseconds, memory in GB."""
    watch = Stopwatch(settings.device)
    with VARIANTS[name](settings, watch) as step:
        for _ in range(WARM_UP):
            step()
        if not settings.compile:  # as many as of the step before, then: they cannot be counted
            with FlopCounterMode(display=False) as counter:
                step()
            settings.operations = counter.get_total_flops()
        if settings.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        times, hosts = [], []
        for _ in range(settings.rounds):
            asked, started = time.perf_counter(), watch.mark()
            for _ in range(settings.steps):
                step()
            ended = watch.mark()
            hosts.append((time.perf_counter() - asked) * 1e3 / settings.steps)
            times.append(watch.milliseconds(started, ended) / settings.steps)
        memory = torch.cuda.max_memory_allocated() / 1e9 if settings.device == "cuda" else 0.0
        middle = statistics.median(times)
        speed = settings.operations / middle * 1e3
        return {
            "ms": middle,
            "from": min(times),
            "to": max(times),
            "images_per_second": settings.batch / middle * 1e3,
            "host_ms": statistics.median(hosts),
            "tflops": speed / 1e12,
            "share_of_peak": speed / peak,
            "memory_gb": memory,
            "parts": parts(step, watch, settings),
        }


def parts(step: Step, watch: Stopwatch, settings: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of a step by part."""
    watch.running = True
    started = watch.mark()
    for _ in range(settings.steps):
        step()
    total = watch.milliseconds(started, watch.mark())
    watch.running = False
    spent = watch.read()
    spent["the rest"] = total - sum(spent.values())
    return {part: ms / settings.steps for part, ms in spent.items()}


def peak_of(settings: argparse.Namespace) -> float:
    """Operations per second of a bf16 matrix product."""
    size = settings.matrix
    x, y = (torch.randn(size, size, device=settings.device).bfloat16() for _ in range(2))
    watch = Stopwatch(settings.device)
    for _ in range(WARM_UP):
        x @ y
    times = []
    for _ in range(10):
        started = watch.mark()
        x @ y
        times.append(watch.milliseconds(started, watch.mark()))
    return float(2 * size**3 / statistics.median(times) * 1e3)


def steps(settings: argparse.Namespace) -> dict[str, Any]:
    """The steps of a network, and the peak they are compared with, in TFLOP/s."""
    peak = peak_of(settings)
    rows: list[dict[str, Any]] = []
    for batch, name in product(settings.batches, settings.variants):
        settings.batch, settings.compile = batch, name == "compiled"
        try:
            measured = measure(name, settings, peak)
        except (torch.OutOfMemoryError, ImportError) as error:
            measured = {"error": type(error).__name__}
        rows.append({"step": name, "batch": batch} | measured)
        gc.collect()
        torch.cuda.empty_cache()
    names = ("backbone", "stem", "size", "width", "precision", "matrix")
    of = {name: getattr(settings, name) for name in names}
    return of | {"peak_tflops": peak / 1e12, "steps": rows}


def tables(result: dict[str, Any]) -> str:
    """What ``steps`` measured, as Markdown."""
    lines = [
        "{backbone}, {size}×{size}, expander {width}³, {precision}; a product of {matrix}³: "
        "{peak_tflops:.0f} TFLOP/s".format(**result),
        "",
        "| step | batch | ms | from–to | images/s | host, ms | TFLOP/s | share of the peak "
        "| memory, GB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    measured = [row for row in result["steps"] if "error" not in row]
    for row in result["steps"]:
        if row in measured:
            lines.append(
                "| {step} | {batch} | {ms:.2f} | {from:.2f}–{to:.2f} | {images_per_second:.0f} "
                "| {host_ms:.2f} | {tflops:.0f} | {share_of_peak:.3f} | {memory_gb:.1f} |".format(
                    **row
                )
            )
        else:
            lines.append("| {step} | {batch} | {error} | | | | | | |".format(**row))
    lines += ["", "| step | batch | part | ms | share |", "|---|---|---|---|---|"]
    for row in measured:
        total = sum(row["parts"].values())
        lines += [
            f"| {row['step']} | {row['batch']} | {part} | {ms:.2f} | {ms / total:.3f} |"
            for part, ms in row["parts"].items()
        ]
    return "\n".join(lines)


def photograph(file: Path, generator: np.random.Generator) -> None:
    """Write a JPEG of the size and weight of ImageNet's."""
    width, height = (int(generator.integers(375, 501)) for _ in range(2))
    coarse = generator.integers(0, 255, (height // 6, width // 6, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noise = generator.integers(-8, 9, (height, width, 3))
    pixels = (np.asarray(smooth).astype(int) + noise).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(file, quality=90)


def reading(settings: argparse.Namespace) -> None:
    """Print how many images per second the loader processes hand over."""
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "class").mkdir()
        for index in range(JPEGS):
            photograph(Path(root) / "class" / f"{index}.jpg", generator)
        size = sum(file.stat().st_size for file in Path(root).rglob("*.jpg")) / JPEGS
        data = ImageFolderData(source="image_folder", path="all", image_size=settings.size)
        files = open_images(data, lambda _: Path(root))
        batches = ViewBatches(
            Subset(files, [index % JPEGS for index in range(READ)]),
            Augmentation.model_validate({}),
            views=2,
            image_size=settings.size,
            batch_size=settings.batches[0],
            seed=0,
            epochs=1000,
            device=torch.device(settings.device),
            loaders=settings.loaders,
        )
        stream = batches.epoch(0)
        next(stream)  # the processes start
        started, count = time.perf_counter(), 0
        for batch in stream:
            count += len(batch.indices)
        if settings.device == "cuda":
            torch.cuda.synchronize()
        rate = count / (time.perf_counter() - started)
    print(
        f"\nJPEG files of {size / 1e3:.0f} kB, two views of {settings.size}×{settings.size}\n\n"
        f"| processes | images/s |\n|---|---|\n| {settings.loaders} | {rate:.0f} |"
    )


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--stem", default="imagenet")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batches", type=int, nargs="+", default=[256])
    parser.add_argument("--width", type=int, default=8192)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=["authors", "lightly", "ours"]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--matrix", type=int, default=8192)
    parser.add_argument("--loaders", type=int)
    parser.set_defaults(operations=0)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    settings = parser().parse_args(arguments)
    set_gpu_arithmetic()
    if settings.loaders is None:
        print(tables(steps(settings)))
    else:
        reading(settings)


if __name__ == "__main__":
    main()
