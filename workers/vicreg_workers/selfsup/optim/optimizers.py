"""Builds the optimiser that a spec names. Each updates all parameters by a few operations."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from vicreg_platform.specs import AdamW, Lars, Sgd
from vicreg_workers.selfsup.optim.lars import LARS


def build_optimizer(spec: Lars | Sgd | AdamW, groups: list[dict[str, Any]], lr: float) -> Optimizer:
    """Build an optimiser whose step changes nothing if its attribute ``found_inf`` is 1.

    Args:
        spec: the optimiser and its constants.
        groups: what to update, from ``parameter_groups``.
        lr: learning rate of the first step.
    """
    if isinstance(spec, Lars):
        return LARS(
            groups,
            lr=lr,
            weight_decay=spec.weight_decay,
            momentum=spec.momentum,
            eta=spec.eta,
            clip=spec.clip,
        )
    groups = [
        {name: value for name, value in group.items() if name != "adaptive"}
        | ({} if group["adaptive"] else {"weight_decay": 0.0})
        for group in groups
    ]
    if isinstance(spec, Sgd):
        sgd = torch.optim.SGD(
            groups, lr=lr, momentum=spec.momentum, weight_decay=spec.weight_decay, fused=True
        )
        if spec.momentum:
            # If a first step is skipped (``found_inf``), torch leaves memory that nobody has
            # written to as its momentum.
            for group in groups:
                for parameter in group["params"]:
                    sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    return torch.optim.AdamW(groups, lr=lr, weight_decay=spec.weight_decay, fused=True)
