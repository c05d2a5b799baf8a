"""What evaluations take of the host's memory at ImageNet's size, and how long.

``python -m tests.benchmarks.features`` prints the table of docs/performance.md. The images are of
2×2 pixels and the encoder is one matrix, so that the time is that of the protocols. Memory is the
most that was resident (Linux), less what was before the first representation.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from vicreg_platform.specs import LinearProtocol
from vicreg_workers.selfsup.data.evaluation_batches import PlainBatch
from vicreg_workers.selfsup.evaluation.features import BATCH_SIZE, Features, features_of
from vicreg_workers.selfsup.evaluation.knn import knn_scores
from vicreg_workers.selfsup.evaluation.linear import linear_probe
from vicreg_workers.selfsup.evaluation.retrieval import QUERIES, retrieval_metrics

TRAIN, WIDTH = 1_281_167, 2048
"""ImageNet's training images, and a ResNet-50's representation."""
CLASSES = 1000
CPU = torch.device("cpu")


def most_resident() -> int:
    """The most memory that was resident since ``forget``, in bytes."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def forget() -> None:
    """Let ``most_resident`` count from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def batches(count: int) -> Iterator[PlainBatch]:
    """``count`` images of noise."""
    generator = torch.Generator().manual_seed(0)
    for first in range(0, count, BATCH_SIZE):
        indices = torch.arange(first, min(first + BATCH_SIZE, count))
        pixels = torch.randint(0, 256, (len(indices), 3, 2, 2), generator=generator)
        yield pixels.to(torch.uint8), indices, ()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=TRAIN)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--queries", type=int, default=1000, help="test images (default 1000)")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, options.width))
    labels = [index % CLASSES for index in range(options.images)]
    features_of(encoder, batches(BATCH_SIZE), labels[:BATCH_SIZE], CPU)
    forget()
    before = most_resident()
    made: list[Features] = []
    protocol = LinearProtocol(name="linear", epochs=1, batch_size=4096, learning_rates=(0.1, 1.0))

    def extract() -> None:
        made.append(features_of(encoder, batches(options.images), labels, CPU))

    def classify() -> None:
        knn_scores(made[0], queries.representations, 200, 0.07, CLASSES)

    def learn() -> None:
        linear_probe(made[0], made[0].labels, queries.representations, protocol, CLASSES)

    def rank() -> None:
        some = slice(0, QUERIES)
        retrieval_metrics(made[0], queries.representations[some], queries.labels[some])

    queries = features_of(encoder, batches(options.queries), labels, CPU)
    stages: dict[str, Callable[[], None]] = {
        "extracting them": extract,
        "`knn`, 200 neighbours": classify,
        "`linear`, one epoch with two rates, batches of 4,096": learn,
        f"`retrieval`, {QUERIES} test images": rank,
    }
    print("| stage | seconds | memory beyond the representations, MB |\n|---|---|---|")
    for name, stage in stages.items():
        forget()
        started = time.perf_counter()
        stage()
        seconds = time.perf_counter() - started
        kept = made[0].representations
        size = kept.numel() * kept.element_size()
        beyond = most_resident() - before - size
        print(f"| {name} | {seconds:.0f} | {beyond / 1e6:.0f} |", flush=True)


if __name__ == "__main__":
    main()
