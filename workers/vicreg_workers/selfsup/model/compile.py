"""``torch.compile``, falling back to the plain module if compiling fails.

Compiling can fail forward or backward, and on one machine only: a node without a C compiler. So it
is tried before the training, and all processes agree; from then on, no error is caught.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from vicreg_workers.selfsup.distributed import gather_objects, world_size

Forward = Callable[..., Any]


def compiled_or_plain(
    module: nn.Module,
    rehearse: Callable[[Forward], None],
    sizes: int,
    device: torch.device,
    warn: Callable[[str], None],
) -> Forward:
    """Compile a module, unless that fails on any process. Every process calls it.

    Args:
        module: what to compile.
        rehearse: calls what it is given, forward and backward, as the training will. The module's
            own errors are raised unchanged.
        sizes: how many sizes of inputs it gets. It is compiled for each.
        device: where the module is.
        warn: called with one line that says why the module was not compiled.

    Returns:
        What to call for a forward pass.
    """
    # If only one process cannot compile, it must say so where no other one waits for it: the
    # module's own collectives come later.
    failure = _failure(lambda: _compile_anything(device)) if world_size() > 1 else None
    if failure is None:
        # Beyond its limit, the compiler would leave further sizes uncompiled, without an error.
        limit = torch._dynamo.config.recompile_limit * sizes
        forward: Forward = torch.compile(  # type: ignore[call-overload]
            module, dynamic=False, recompile_limit=limit
        )
        failure = _failure(lambda: rehearse(forward))
        if failure is None:
            return forward
    warn(f"training.compile: the network runs uncompiled because torch.compile failed: {failure}")
    return module


def _failure(attempt: Callable[[], None]) -> str | None:
    """Why compiling has failed on any process, or None."""
    # Importing the compiler takes seconds, and only a run that compiles needs it.
    from torch._dynamo.exc import TorchDynamoException

    reason = None
    try:
        attempt()
    except TorchDynamoException as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split(chr(10), 2)[:2])[:200]}"
    return next((each for each in gather_objects(reason) if each is not None), None)


def _compile_anything(device: torch.device) -> None:
    """Compile a function and its gradient, which needs all that a network's needs."""
    x = torch.ones(2, device=device, requires_grad=True)
    torch.compile(torch.sin)(x).sum().backward()  # type: ignore[no-untyped-call]
