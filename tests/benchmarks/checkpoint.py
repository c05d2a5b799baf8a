"""What a checkpoint costs the training, against one that is written while the training waits.

``python -m tests.benchmarks.checkpoint`` prints the tables of docs/performance.md: a ResNet-50 with
an expander of three layers and the momentum of LARS, 1.4 GB. *waiting* is how checkpoints were
written before: serialised in memory, written and synced while the training waits, and read once to
be checked and again to be loaded. Both take turns. *without room* is the first save of a training
that does not make room for the copy beforehand. The step is a matrix product on all cores.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from vicreg_platform.specs import PretrainSpec, parse_spec
from vicreg_workers.checkpoints import Checkpoints
from vicreg_workers.selfsup.context import State
from vicreg_workers.selfsup.model.network import JointEmbedding
from vicreg_workers.selfsup.optim.optimizers import build_optimizer
from vicreg_workers.selfsup.optim.parameter_groups import parameter_groups
from vicreg_workers.storage import Folder

FILE = "shared.pt"
STEP = 1024
"""Rows and columns of the matrices of a step."""
STEPS = 50
"""Steps that are timed before each save."""


def trained(backbone: str, width: int) -> State:
    """The state of a network that has taken a step."""
    spec = parse_spec(
        {
            "kind": "pretrain",
            "backbone": {"name": backbone},
            "expander": {"layers": [width] * 3},
            "data": {"source": "digits"},
        }
    )
    assert isinstance(spec, PretrainSpec)
    network = JointEmbedding(spec)
    optimizer = build_optimizer(spec.optimizer, parameter_groups(network.parameters()), lr=0.1)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    shared = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
    return State(1, shared, {"torch": torch.get_rng_state()})


def save_waiting(folder: Folder, state: State) -> int:
    """Write the state as before; the CRC of what is written."""
    buffer = io.BytesIO()
    torch.save(state.shared, buffer)
    content = buffer.getvalue()
    folder.write(FILE, content)
    return zlib.crc32(content)


def load_waiting(folder: Folder, crc32: int) -> None:
    """Check the file, and load it, as before."""
    assert zlib.crc32(folder.read(FILE)) == crc32
    torch.load(io.BytesIO(folder.read(FILE)), map_location="cpu", weights_only=True)


def seconds(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--width", type=int, default=8192, help="of the expander's layers")
    parser.add_argument("--saves", type=int, default=4, help="of each kind, at least 2")
    parser.add_argument("--storage", type=Path, help="a folder on the disk to measure")
    options = parser.parse_args(arguments)
    state = trained(options.backbone, options.width)
    with tempfile.TemporaryDirectory(dir=options.storage) as storage:
        measure(state, storage, options.saves)


def first_without_room(state: State, storage: str) -> tuple[float, float]:
    """The seconds that the training waits, and after which the checkpoint is complete."""
    checkpoints = Checkpoints(storage, "unprepared", keep=1)
    started = time.perf_counter()
    waiting = seconds(lambda: checkpoints.save(state))
    checkpoints.finish()
    return waiting, time.perf_counter() - started


def measure(state: State, storage: str, saves: int) -> None:
    """Save in turns and load, and print the tables."""
    folder, checkpoints = Folder.of_job(storage, "waiting"), Checkpoints(storage, "job", keep=1)
    x = torch.randn(STEP, STEP)

    def step() -> None:
        torch.mm(x, x)

    def begin() -> None:
        checkpoints.save(state)

    crc32 = save_waiting(folder, state)
    without_room = first_without_room(state, storage)
    alone = [seconds(step) for _ in range(STEPS)]
    checkpoints.make_room(state)
    making = [seconds(step) for _ in range(STEPS)]
    beside: list[float] = []
    before, waits, ends = [], [], []
    for _ in range(saves):
        alone += [seconds(step) for _ in range(STEPS)]
        before.append(seconds(lambda: save_waiting(folder, state)))
        started = time.perf_counter()
        waits.append(seconds(begin))
        ending = threading.Thread(target=checkpoints.finish)
        ending.start()
        while ending.is_alive():
            beside.append(seconds(step))
        ends.append(time.perf_counter() - started)
    size = (checkpoints.last_files() or ("", {}))[1][FILE]
    print(
        f"\n{len(size) / 1e9:.2f} GB, {torch.get_num_threads()} threads\n\n"
        "| | the training waits, s | complete after, s |\n"
        "|---|---|---|\n"
        f"| waiting | {statistics.median(before):.2f} | {statistics.median(before):.2f} |\n"
        f"| first, without room | {without_room[0]:.2f} | {without_room[1]:.2f} |\n"
        f"| first | {waits[0]:.2f} | {ends[0]:.2f} |\n"
        f"| following | {statistics.median(waits[1:]):.2f} | {statistics.median(ends[1:]):.2f} |"
    )
    ratio = statistics.mean(beside) / statistics.mean(alone)
    print(f"\na step meanwhile takes {ratio:.2f} times as long, the longest {max(beside):.2f} s\n")
    ratio = statistics.mean(making) / statistics.mean(alone[:STEPS])
    print(f"{STEPS} steps while room is made take {ratio:.2f} times as long, ", end="")
    print(f"{sum(making):.2f} s in all\n")
    print("| load | s |\n|---|---|")
    print(f"| waiting | {seconds(lambda: load_waiting(folder, crc32)):.2f} |")
    print(f"| now | {seconds(checkpoints.load):.2f} |", flush=True)


if __name__ == "__main__":
    main()
