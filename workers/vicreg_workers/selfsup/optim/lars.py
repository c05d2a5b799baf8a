"""LARS, layer-wise adaptive rate scaling (You et al. 2017; the authors' ``main_vicreg.py``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class LARS(Optimizer):
    """Momentum SGD whose step for each weight matrix is proportional to the matrix's norm.

    Only the groups of weights get weight decay and the scaling: biases and norms do not, as with
    the authors' ``exclude_bias_and_norm``. A few multi-tensor operations update all
    parameters; none waits for the device. As with torch's fused optimisers, a step changes nothing
    if the attribute ``found_inf``, a scalar tensor, is 1. Gradients are overwritten.

    Args:
        groups: the parameters to update, from ``parameter_groups``.
        lr: learning rate, above 0.
        weight_decay: added to the gradient as ``weight_decay * parameter``.
        momentum: in [0, 1).
        eta: trust coefficient, above 0.
        clip: whether to limit a layer's scaled rate to ``lr`` (``clip_lr`` of solo-learn's LARS).
    """

    _step_supports_amp_scaling = True  # torch's name: makes GradScaler set ``found_inf``

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        eta: float = 0.001,
        clip: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "eta": eta,
            "clip": clip,
        }
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        if closure is not None:
            raise ValueError("LARS takes no closure")
        # Set from outside, as on torch's fused optimisers. GradScaler removes them afterwards.
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        grad_scale: Tensor | None = getattr(self, "grad_scale", None)
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            gradients: list[Any] = [p.grad for p in parameters]
            if grad_scale is not None:
                inverse = grad_scale.double().reciprocal().float()
                torch._foreach_mul_(gradients, inverse)
            if group["adaptive"]:
                _scale(parameters, gradients, group)
            torch._fused_sgd_(
                parameters,
                gradients,
                [self._momentum_of(p) for p in parameters],
                weight_decay=0.0,
                momentum=group["momentum"],
                lr=group["lr"],
                dampening=0.0,
                nesterov=False,
                maximize=False,
                is_first_step=False,
                found_inf=found_inf,
            )

    def _momentum_of(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "mu" not in state:
            state["mu"] = torch.zeros_like(parameter)
        momentum: Tensor = state["mu"]
        return momentum


def _scale(parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
    """Turn gradients into updates, in place: add weight decay, scale by the parameters' norms."""
    torch._foreach_add_(gradients, parameters, alpha=group["weight_decay"])
    parameter_norms = torch.stack(torch._foreach_norm(parameters))
    update_norms = torch.stack(torch._foreach_norm(gradients))
    usable = (parameter_norms > 0) & (update_norms > 0)
    factors = group["eta"] * parameter_norms / update_norms
    if group["clip"]:
        # A warm-up begins at a rate of 0, which must not be divided by.
        factors = (factors / max(group["lr"], 1e-12)).clamp_max(1.0)
    torch._foreach_mul_(gradients, list(torch.where(usable, factors, 1.0).unbind()))
