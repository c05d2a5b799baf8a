"""Builds the optimiser that a spec names. Each updates all parameters by a few operations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from vicreg_platform.specs import AdamW, Lars, Sgd
from vicreg_workers.selfsup.optim.lars import LARS


def build_optimizer(
    spec: Lars | Sgd | AdamW, parameters: Iterable[nn.Parameter], lr: float
) -> Optimizer:
    """Build an optimiser whose step changes nothing if its attribute ``found_inf`` is 1.

    Args:
        spec: the optimiser and its constants.
        parameters: what to update; those without ``requires_grad`` are left out.
        lr: learning rate of the first step.
    """
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    if isinstance(spec, Lars):
        return LARS(
            learning,
            lr=lr,
            weight_decay=spec.weight_decay,
            momentum=spec.momentum,
            eta=spec.eta,
            clip=spec.clip,
        )
    groups: list[dict[str, Any]] = [
        {"params": [p for p in learning if _is_matrix(p)]},
        # As in DeiT, biases, norms, class token and position embeddings are not decayed.
        {"params": [p for p in learning if not _is_matrix(p)], "weight_decay": 0.0},
    ]
    if isinstance(spec, Sgd):
        sgd = torch.optim.SGD(
            groups, lr=lr, momentum=spec.momentum, weight_decay=spec.weight_decay, fused=True
        )
        if spec.momentum:
            # If a first step is skipped (``found_inf``), torch leaves memory that nobody has
            # written to as its momentum.
            for parameter in learning:
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    return torch.optim.AdamW(groups, lr=lr, weight_decay=spec.weight_decay, fused=True)


def _is_matrix(parameter: nn.Parameter) -> bool:
    """Whether it is a layer's weight. A ViT's class token and positions are ``[1, n, D]``."""
    token = parameter.ndim == 3 and parameter.shape[0] == 1
    return parameter.ndim > 1 and not token
