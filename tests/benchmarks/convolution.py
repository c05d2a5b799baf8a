"""Convolutions of small maps as products, against torch's, at the shapes of a ResNet-18 at 32×32.

``python -m tests.benchmarks.convolution`` prints the table of docs/performance.md.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

from vicreg_workers.selfsup.model.small_convolution import multiply_small_maps

BATCH, ROUNDS = 256, 15
SHAPES = [(256, 256, 2, 1, 3), (256, 512, 2, 2, 3), (256, 512, 2, 2, 1), (512, 512, 1, 1, 3)]


def main() -> None:
    print(
        f"\nforward and backward, batch {BATCH}, {torch.get_num_threads()} threads\n\n"
        "| channels | map | kernel | stride | precision | torch's, ms | time, torch's/ours |\n"
        "|---|---|---|---|---|---|---|"
    )
    for precision in (torch.float32, torch.bfloat16):
        for inputs, outputs, size, stride, kernel in SHAPES:
            torchs = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
            ours = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
            multiply_small_maps(ours)
            maps = torch.randn(BATCH, inputs, size, size).to(memory_format=torch.channels_last)
            times: dict[nn.Module, list[float]] = {torchs: [], ours: []}
            for _ in range(ROUNDS):
                for layer, spent in times.items():
                    spent.append(timed(layer, maps.clone().requires_grad_(), precision))
            slow, fast = (statistics.median(spent[1:]) for spent in times.values())
            print(
                f"| {inputs}→{outputs} | {size}×{size} | {kernel}×{kernel} | {stride} "
                f"| {str(precision)[6:]} | {slow * 1e3:.1f} | {slow / fast:.1f} |",
                flush=True,
            )


def timed(layer: nn.Module, maps: torch.Tensor, precision: torch.dtype) -> float:
    layer.zero_grad()
    started = time.perf_counter()
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        value = layer(maps)
    value.backward(torch.ones_like(value))
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
