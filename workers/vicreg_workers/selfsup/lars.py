"""LARS, layer-wise adaptive rate scaling (You et al. 2017; the authors' ``main_vicreg.py``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class LARS(Optimizer):
    """Momentum SGD whose step for each weight matrix is proportional to the matrix's norm.

    Biases and BatchNorm parameters (one dimension) get neither weight decay nor the scaling, as
    with the authors' ``exclude_bias_and_norm``. All parameters are updated by a few multi-tensor
    operations.

    Args:
        parameters: the parameters to update.
        lr: learning rate, above 0.
        weight_decay: added to the gradient as ``weight_decay * parameter``.
        momentum: in [0, 1).
        eta: trust coefficient, above 0.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        eta: float = 0.001,
    ) -> None:
        parameters = list(parameters)
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "adaptive": True},
            {"params": [p for p in parameters if p.ndim <= 1], "adaptive": False},
        ]
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "eta": eta}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        if closure is not None:
            raise ValueError("LARS takes no closure")
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            updates = [p.grad for p in parameters]
            if group["adaptive"]:
                updates = _scaled(parameters, updates, group["weight_decay"], group["eta"])
            momenta = [self._momentum_of(p) for p in parameters]
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, updates)
            torch._foreach_add_(parameters, momenta, alpha=-group["lr"])

    def _momentum_of(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "mu" not in state:
            state["mu"] = torch.zeros_like(parameter)
        momentum: Tensor = state["mu"]
        return momentum


def _scaled(
    parameters: list[Tensor], gradients: list[Any], weight_decay: float, eta: float
) -> list[Tensor]:
    updates = torch._foreach_add(gradients, parameters, alpha=weight_decay)
    parameter_norms = torch.stack(torch._foreach_norm(parameters))
    update_norms = torch.stack(torch._foreach_norm(updates))
    usable = (parameter_norms > 0) & (update_norms > 0)
    factors = torch.where(usable, eta * parameter_norms / update_norms, 1.0)
    torch._foreach_mul_(updates, list(factors.unbind()))
    return list(updates)
