"""What a slow or dead MLflow server costs the training: nothing.

Trains the same epochs with the server answering, hung (stopped by a signal: it accepts connections
and never answers) and dead (nothing listens), in turn within one run. Prints the time of a step as
a ratio to the answering server's.
"""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from tests.integration.conftest import MlflowServer
from vicreg_platform.contract.progress import Progress
from vicreg_platform.data_root import resolve_inside
from vicreg_platform.specs import PretrainSpec, parse_spec
from vicreg_platform.tracking import Tracking
from vicreg_workers.selfsup.context import NullContext, TrainingProgress
from vicreg_workers.selfsup.data.sources import open_images
from vicreg_workers.selfsup.train import Pretraining
from vicreg_workers.tracking.outbox import Outbox

ROUNDS = 5
CONDITIONS = ("answering", "hung", "dead")


class Recording(NullContext):
    """Records all that a real worker does."""

    def __init__(self, outbox: Outbox) -> None:
        super().__init__()
        self._outbox = outbox

    def metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self._outbox.metrics(metrics, step)

    def progress(self, progress: TrainingProgress) -> None:
        self._outbox.progress(Progress(**asdict(progress)))

    def figure(self, path: str, png: bytes) -> None:
        self._outbox.file(path, png)


def spec() -> PretrainSpec:
    parsed = parse_spec(
        {
            "kind": "pretrain",
            "backbone": {"name": "resnet10", "stem": "cifar"},
            "expander": {"layers": [64, 64]},
            "data": {"source": "digits", "image_size": 8},
            "training": {"epochs": 2, "batch_size": 128},
        }
    )
    assert isinstance(parsed, PretrainSpec)
    return parsed


def seconds_per_step(outbox: Outbox) -> float:
    images = open_images(spec().data, partial(resolve_inside, Path()))
    pretraining = Pretraining(spec(), images, Recording(outbox))
    began = time.perf_counter()
    pretraining.run()
    return (time.perf_counter() - began) / pretraining.progress.steps


def measure(
    server: MlflowServer, conditions: Sequence[str] = CONDITIONS, rounds: int = ROUNDS
) -> dict[str, float]:
    """Seconds per step under each condition: the median of the rounds."""
    run_id, _ = Tracking(server.url).ensure_run("b", "n", "e", {"kind": "pretrain"}, None)
    times: dict[str, list[float]] = {condition: [] for condition in conditions}
    for _ in range(rounds):
        for condition in conditions:
            with Outbox(server.url, run_id, resumed=True) as outbox:
                _break(server, condition)
                times[condition].append(seconds_per_step(outbox))
                _repair(server, condition)  # what is queued arrives when the outbox is closed
    return {condition: statistics.median(seconds) for condition, seconds in times.items()}


def _break(server: MlflowServer, condition: str) -> None:
    if condition == "hung":
        os.killpg(server.process_group(), signal.SIGSTOP)
    elif condition == "dead":
        server.end()


def _repair(server: MlflowServer, condition: str) -> None:
    if condition == "hung":
        os.killpg(server.process_group(), signal.SIGCONT)
    elif condition == "dead":
        server.start()


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        server = MlflowServer(Path(folder))
        server.start()
        measure(server, ("answering",), rounds=1)  # imports and caches
        seconds = measure(server)
        server.end()
    print("| MLflow | time of a step, as a ratio |\n|---|---|")
    for condition in CONDITIONS:
        print(f"| {condition} | {seconds[condition] / seconds['answering']:.2f} |")


if __name__ == "__main__":
    main()
