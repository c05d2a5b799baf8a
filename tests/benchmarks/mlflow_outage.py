"""What a slow or dead MLflow server costs the training: nothing.

Trains the same epochs with the server answering, hung (stopped by a signal: it accepts, and never
answers) and dead (nothing listens), in turn within one run, and prints the time of a step as a
ratio to the answering server's. ``make bench`` runs it; it is no part of the test suite.
"""

from __future__ import annotations

import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from tests.integration.conftest import MlflowServer
from vicreg_platform.contract.progress import Progress
from vicreg_platform.specs import PretrainSpec, parse_spec
from vicreg_platform.tracking import Tracking
from vicreg_workers.selfsup.context import NullContext
from vicreg_workers.selfsup.data.sources import open_images
from vicreg_workers.selfsup.train import Pretraining
from vicreg_workers.tracking.outbox import Outbox

ROUNDS = 5
CONDITIONS = ("answering", "hung", "dead")


class Logging(NullContext):
    """Says all that a real worker says."""

    def __init__(self, outbox: Outbox) -> None:
        super().__init__()
        self._outbox = outbox

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._outbox.metrics(metrics, step)

    def progress(self, progress: Progress) -> None:
        self._outbox.progress(progress)

    def picture(self, path: str, png: bytes) -> None:
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


def seconds_per_step(url: str, run_id: str) -> tuple[float, Outbox]:
    outbox = Outbox(url, run_id, resumed=True)
    pretraining = Pretraining(spec(), open_images(spec().data, Path()), Logging(outbox))
    began = time.perf_counter()
    pretraining.run()
    return (time.perf_counter() - began) / 22, outbox


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        server = MlflowServer(Path(folder))
        server.start()
        run_id, _ = Tracking(server.url).ensure_run("b", "n", "e", {"kind": "pretrain"}, None)
        seconds_per_step(server.url, run_id)[1].close()  # imports and caches
        times: dict[str, list[float]] = {condition: [] for condition in CONDITIONS}
        for number in range(ROUNDS):
            for condition in CONDITIONS:
                _set(server, condition)
                seconds, outbox = seconds_per_step(server.url, run_id)
                times[condition].append(seconds)
                _undo(server, condition)
                outbox.close()  # what was queued arrives
                print(f"round {number + 1}, {condition}: {1000 * seconds:.1f} ms", file=sys.stderr)
        server.end()
    base = statistics.median(times["answering"])
    print("| MLflow | time of a step, as a ratio |\n|---|---|")
    for condition in CONDITIONS:
        print(f"| {condition} | {statistics.median(times[condition]) / base:.2f} |")


def _set(server: MlflowServer, condition: str) -> None:
    if condition == "hung":
        os.killpg(server.process_group(), signal.SIGSTOP)
    elif condition == "dead":
        server.end()


def _undo(server: MlflowServer, condition: str) -> None:
    if condition == "hung":
        os.killpg(server.process_group(), signal.SIGCONT)
    elif condition == "dead":
        server.start()


if __name__ == "__main__":
    main()
