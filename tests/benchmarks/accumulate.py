"""Memory and time of a step whose batch passes the network in parts, or block by block.

``python -m tests.benchmarks.accumulate`` prints the table of docs/performance.md: forward and
backward of a ResNet-18 with an expander of 2048³, as ratios to the whole batch at once, taken in
turn; and with checkpointed activations. Memory is the most that torch's allocator held at once
beyond the network and its images.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch

from tests.benchmarks.loss import allocated_megabytes
from vicreg_platform.specs import PretrainSpec, parse_spec
from vicreg_workers.selfsup.accumulation import Accumulation
from vicreg_workers.selfsup.loss.methods import MethodLoss
from vicreg_workers.selfsup.model.checkpoint import checkpoint_activations
from vicreg_workers.selfsup.model.network import JointEmbedding
from vicreg_workers.selfsup.random_state import RandomState

WAYS = [(1, False), (2, False), (4, False), (8, False), (1, True), (4, True)]
"""Parts, and whether activations are checkpointed."""


def step_of(parts: int, checkpointed: bool, batch: int, size: int) -> Callable[[], None]:
    """A step without the optimiser, whose gradient is thrown away."""
    spec = parse_spec(
        {
            "kind": "pretrain",
            "expander": {"layers": [2048] * 3},
            "data": {"source": "digits", "image_size": size},
        }
    )
    assert isinstance(spec, PretrainSpec)
    torch.manual_seed(0)
    network = JointEmbedding(spec).train()
    if checkpointed:
        checkpoint_activations(network.backbone)
    loss = MethodLoss(spec.method)
    views = torch.randn(2, batch, 3, size, size).unbind()
    passed = Accumulation(network, network, nullcontext, RandomState(torch.device("cpu")), parts)

    def step() -> None:
        if parts == 1:
            loss(*network(*views)).terms["loss"].backward()  # type: ignore[no-untyped-call]
        else:
            passed.backward(loss(*passed.embeddings(views)).terms["loss"])
        network.zero_grad(set_to_none=True)

    return step


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args(arguments)
    steps = {way: step_of(*way, asked.batch, asked.size) for way in WAYS}
    seconds: dict[tuple[int, bool], list[float]] = {way: [] for way in WAYS}
    memory = {}
    for way, step in steps.items():
        step()
        memory[way] = allocated_megabytes(step)
    for _ in range(asked.rounds):
        for way, step in steps.items():
            started = time.perf_counter()
            step()
            seconds[way].append(time.perf_counter() - started)
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    whole = WAYS[0]
    print(
        f"Batch {asked.batch}, {asked.size}×{asked.size}\n\n"
        "| parts | checkpointed | memory, MB | of the whole | time, of the whole |\n"
        "|---|---|---|---|---|"
    )
    for way in WAYS:
        parts, checkpointed = way
        print(
            f"| {parts} | {'yes' if checkpointed else 'no'} | {memory[way]:.0f} "
            f"| {memory[way] / memory[whole]:.2f} | {medians[way] / medians[whole]:.2f} |"
        )


if __name__ == "__main__":
    main()
