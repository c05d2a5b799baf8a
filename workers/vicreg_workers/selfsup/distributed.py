"""The collectives of data-parallel training. They work in a single process too."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

Value = TypeVar("Value")

ROWS_SENT = 2**14
"""Rows that one process sends to another at once."""


def world_size() -> int:
    """Number of processes that train together (1 without a process group)."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Index of this process, in [0, world_size)."""
    return dist.get_rank() if dist.is_initialized() else 0


def processes_on_node() -> int:
    """Number of processes that train together on this machine, as Ray Train says (torchrun too)."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def barrier() -> None:
    """Wait until every process has called it."""
    if world_size() > 1:
        dist.barrier()


def gather_with_gradient(x: Tensor) -> Tensor:
    """The rows of all processes in rank order, differentiable.

    Args:
        x: ``[N, D]``, the same shape on every process.

    Returns:
        ``[world_size * N, D]``. The gradient of each process's rows is summed over all processes,
        as in ``FullGatherLayer`` of the authors' ``main_vicreg.py``.
    """
    if world_size() == 1:
        return x
    gathered: Tensor = _Gather.apply(x)
    return gathered


def gather(x: Tensor, room: Tensor | None = None) -> Tensor:
    """The rows ``[N, D]`` of all processes in rank order, without gradient.

    Args:
        x: the rows of this process.
        room: what ``room_for`` has made for them; None to make it here.
    """
    if world_size() == 1:
        return x
    gathered = room_for(x) if room is None else room
    dist.all_gather_into_tensor(gathered, x.contiguous().view(-1))
    return gathered.view(-1, *x.shape[1:])


def room_for(x: Tensor) -> Tensor:
    """Memory for what ``gather`` returns."""
    return x.new_empty(world_size() * x.numel())


def agreed(make: Callable[[], Value]) -> Value:
    """What ``make`` returns, once it has returned on all processes.

    Raises:
        Exception: what was raised on one of them, on all of them.
    """
    made, problem = None, None
    try:
        made = make()
    except Exception as error:
        problem = error
    problems = [each for each in gather_objects(problem) if each is not None]
    if problems:
        raise problems[0]
    return cast(Value, made)


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of ``x`` over all processes, without gradient."""
    if world_size() == 1:
        return x
    x = x.clone()
    dist.all_reduce(x)
    return x


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of ``x`` over all processes, without gradient."""
    return sum_over_processes(x) / world_size()


def any_over_processes(flags: list[bool]) -> list[bool]:
    """For each flag, whether it is set on any process. Waits for all of them."""
    if world_size() == 1:
        return flags
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    numbers = torch.tensor(flags, dtype=torch.int32, device=device)
    dist.all_reduce(numbers, op=dist.ReduceOp.MAX)
    return [bool(number) for number in numbers.tolist()]


def gather_objects(value: Any) -> list[Any]:
    """``value`` of every process, in rank order."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def from_first(call: Callable[[], Value]) -> Value | None:
    """Call a function on the first process, while the others wait.

    Returns:
        What it returned there; None on the others.

    Raises:
        Exception: on every process, what it raised there.
    """
    value: Value | None = None
    problem: Exception | None = None
    if rank() == 0:
        try:
            value = call()
        except Exception as error:
            problem = error
    problem = gather_objects(problem)[0]
    if problem is not None:
        raise problem
    return value


def first_before_others(call: Callable[[], Value]) -> Value:
    """Call a function on the first process, then on the others, which find what it has made.

    Raises:
        Exception: on every process, what it raised on the first one.
    """
    made = from_first(call)
    return cast(Value, made) if rank() == 0 else call()


def rows_on_first(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """The rows of all processes in rank order, on the first process; its own on each other.

    No process but the first holds more than its own, and it takes a few of another at a time.

    Args:
        rows: of this process, ``[counts[rank], F]`` and contiguous; all have one width and type.
        counts: how many each process has.
    """
    if world_size() == 1:
        return rows
    if rank() > 0:
        for some in _split(rows):
            dist.send(some, 0)
        return rows
    everything = rows.new_empty(sum(counts), rows.shape[1])
    places = torch.split(everything, list(counts))
    places[0].copy_(rows)
    for sender, place in enumerate(places[1:], start=1):
        for some in _split(place):
            dist.recv(some, sender)
    return everything


def _split(rows: Tensor) -> Sequence[Tensor]:
    """As they are sent: none if there are no rows."""
    return torch.split(rows, ROWS_SENT) if len(rows) else ()


def take_from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with those of the first process."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def refuse_second_derivative(of: str) -> None:
    """To be called first in a backward pass whose own derivative is not implemented.

    torch's ``once_differentiable`` is not enough: it lets a gradient pass that does not itself
    depend on the input, and the second derivative is then silently wrong.

    Raises:
        RuntimeError: the pass is recorded to be differentiated again (``create_graph=True``).
    """
    if torch.is_grad_enabled():
        raise RuntimeError(f"the second derivative of {of} is not implemented")


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = x.shape[0]
        return gather(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        refuse_second_derivative("a batch gathered from several processes")
        gradient = gradients[0].contiguous().clone()
        dist.all_reduce(gradient)
        return gradient.narrow(0, rank() * ctx.rows, ctx.rows)
