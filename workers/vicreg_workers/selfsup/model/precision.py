"""The precision that the network computes in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """A context in which the network computes in ``precision``: fp32, bf16 or fp16."""
    if precision == "fp32":
        return nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype)


def compute_in(module: nn.Module, context: Callable[[], AbstractContextManager[object]]) -> None:
    """Let a module compute in a context from now on; what it returns is float32.

    Args:
        module: returns a tensor, or a mapping of tensors.
        context: makes it.
    """
    forward = module.forward

    def inside(*inputs: Any) -> Any:
        with context():
            outputs = forward(*inputs)
        if isinstance(outputs, Mapping):
            return {name: each.float() for name, each in outputs.items()}
        return outputs.float()

    module.forward = inside


def set_gpu_arithmetic() -> None:
    """Set how this process's GPUs compute. Does nothing to what runs on CPUs.

    What float32 means there: convolutions round their inputs to TF32 (10 bits of mantissa), as in
    the authors' code and by torch's default; matrix products, and so the losses, do not. Images
    have one size, so cuDNN tries its algorithms once and keeps the fastest. They may sum in
    another order in another process: a run is repeated up to rounding, not bit for bit.
    """
    torch.backends.cudnn.conv.fp32_precision = "tf32"  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.benchmark = True
