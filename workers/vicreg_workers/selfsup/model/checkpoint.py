"""Activation checkpointing: a block's activations are computed again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpoint_activations(backbone: nn.Module) -> None:
    """Have each block of a backbone keep its input alone for the backward pass (Chen et al. 2016).

    The gradient is the same. What a block draws at random is drawn again, and BatchNorm's running
    statistics count once. Outside training, and where no gradient is asked for, nothing changes.
    """
    for block in _blocks(backbone):
        # Weights keep their names, and copies of the backbone work by themselves.
        block.__class__ = _recomputing(type(block))  # type: ignore[arg-type]


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The children of the outermost sequences, and of sequences that these consist of."""
    for child in module.children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            for block in child.children():
                if isinstance(block, nn.Sequential | nn.ModuleList):
                    yield from block.children()
                else:
                    yield block
        else:
            yield from _blocks(child)


@cache
def _recomputing(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of blocks of a kind that compute again what the backward pass needs."""

    def forward(self: nn.Module, *inputs: Any) -> Any:
        if not (self.training and torch.is_grad_enabled()):
            return kind.forward(self, *inputs)

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), _same_statistics(self)

        return checkpoint(kind.forward, self, *inputs, use_reentrant=False, context_fn=contexts)

    return type(kind.__name__, (kind,), {"forward": forward})


@contextmanager
def _same_statistics(block: nn.Module) -> Iterator[None]:
    """Have BatchNorm's running statistics stay as they are."""
    norms = [each for each in block.modules() if isinstance(each, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked -= 1
