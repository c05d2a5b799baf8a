"""Time and peak memory of the loss, forward and backward, against the authors' formula.

``python -m tests.benchmarks.loss`` prints the tables of docs/performance.md. Times are medians of
interleaved repetitions, in float32, on all cores. Operations are counted by torch. With
``--device cuda``, the first table is that of a GPU, and there is no second one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from tests.unit.selfsup.processes import Gloo
from vicreg_workers.selfsup import VICRegLoss

BATCHES = (64, 256, 1024, 4096)
WIDTHS = (512, 2048, 8192, 16384)
SLOW_SECONDS = 5.0
RANKS = (1, 2, 4)
SHARED = ((256, 8192), (1024, 8192), (4096, 512))


def authors_loss(x: Tensor, y: Tensor) -> Tensor:
    """The formula with its D×D matrices (paper, section 4; as ``main_vicreg.py`` computes it)."""
    count, dimensions = x.shape
    distance = functional.mse_loss(x, y)
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    hinge = sum(functional.relu(1 - torch.sqrt(z.var(dim=0) + 1e-4)).mean() / 2 for z in (x, y))
    covariance = torch.zeros(())
    for z in (x, y):
        matrix = (z.T @ z) / (count - 1)
        # All elements but the diagonal's, as a view: what follows each diagonal element.
        beside = matrix.flatten()[:-1].view(dimensions - 1, dimensions + 1)[:, 1:]
        covariance = covariance + beside.flatten().pow(2).sum() / dimensions
    return 25 * distance + 25 * hinge + covariance


def our_loss(x: Tensor, y: Tensor) -> Tensor:
    """The same loss, as computed here."""
    total: Tensor = VICRegLoss()(x, y).total
    return total


def seconds(loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> float:
    started = time.perf_counter()
    torch.autograd.grad(loss(x, y), (x, y))
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def peak_megabytes(loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> float:
    """The peak of the memory allocated beyond the inputs, by the allocator's own record."""
    if x.is_cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        torch.autograd.grad(loss(x, y), (x, y))
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    return allocated_megabytes(lambda: torch.autograd.grad(loss(x, y), (x, y)))


def allocated_megabytes(step: Callable[[], object]) -> float:
    """The most that torch's allocator held at once on the CPU, beyond what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    held = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak / 1e6


def batch(count: int, dimensions: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    x = torch.randn(count, dimensions, device=device)
    y = x + 0.1 * torch.randn(count, dimensions, device=device)
    return x.requires_grad_(), y.requires_grad_()


def against_the_authors(device: str) -> None:
    digits = 2 if device == "cuda" else 1
    print("| N | D | ours, ms | time, authors'/ours | memory, authors'/ours | authors', MB |")
    print("|---|---|---|---|---|---|")
    for count in BATCHES:
        for dimensions in WIDTHS:
            x, y = batch(count, dimensions, device)
            for loss in (our_loss, authors_loss) if device == "cuda" else ():
                seconds(loss, x, y)  # a first call chooses and loads kernels
            times: tuple[list[float], list[float]] = ([seconds(our_loss, x, y)], [])
            started = time.perf_counter()
            while not times[1] or (
                time.perf_counter() - started < SLOW_SECONDS and len(times[1]) < 21
            ):
                times[1].append(seconds(authors_loss, x, y))
                times[0].append(seconds(our_loss, x, y))
            ours = statistics.median(times[0])
            ratio = statistics.median(times[1]) / ours
            memory = [peak_megabytes(loss, x, y) for loss in (our_loss, authors_loss)]
            print(
                f"| {count} | {dimensions} | {ours * 1e3:.{digits}f} | {ratio:.1f} "
                f"| {memory[1] / memory[0]:.1f} | {memory[1]:.0f} |",
                flush=True,
            )


def share_of_a_rank(count: int, dimensions: int) -> tuple[float, int]:
    """Seconds and operations of one rank's part of the loss of a global batch."""
    torch.set_num_threads(1)
    rows = count // dist.get_world_size()
    x, y = batch(rows, dimensions)
    times = []
    for _ in range(7):
        dist.barrier()
        times.append(seconds(our_loss, x, y))
    with FlopCounterMode(display=False) as counter:
        our_loss(x, y).backward()  # type: ignore[no-untyped-call]
    return statistics.median(times), counter.get_total_flops()


def over_ranks() -> None:
    print("\n| N over all ranks | D | ranks | operations of a rank | time of a rank |")
    print("|---|---|---|---|---|")
    pools = {size: Gloo(size) for size in RANKS}
    for count, dimensions in SHARED:
        alone = None
        for size, pool in pools.items():
            time_taken, operations = max(pool.run(share_of_a_rank, count, dimensions))
            alone = alone or (time_taken, operations)
            print(
                f"| {count} | {dimensions} | {size} | {operations / alone[1]:.2f} "
                f"| {time_taken / alone[0]:.2f} |",
                flush=True,
            )
    for pool in pools.values():
        pool.close()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args(arguments).device
    against_the_authors(device)
    if device == "cpu":
        over_ranks()


if __name__ == "__main__":
    main()
