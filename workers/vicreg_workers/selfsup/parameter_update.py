"""Updates the parameters from a batch's loss: optimiser, loss scale, learning rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

import torch
from torch import Tensor, nn

from vicreg_platform.specs import PretrainSpec
from vicreg_workers.selfsup.monitor.divergence import FiniteWatch, NotFinite
from vicreg_workers.selfsup.optim.learning_rate import (
    learning_rate,
    peak_learning_rate,
    rewarmed_learning_rate,
)
from vicreg_workers.selfsup.optim.optimizers import build_optimizer
from vicreg_workers.selfsup.optim.parameter_groups import parameter_groups


class ParameterUpdate:
    """Optimiser, loss scale, learning rate, and the watch for values that are not finite.

    Args:
        spec: what is trained.
        parameters: the parameters to update; those without ``requires_grad`` are left out.
        terms: names of the loss's terms, in their order.
        steps_per_epoch: at least 1.
        device: where the parameters are.
        factors: of their learning rate, if not 1.
        undecayed: weights that are treated like biases.
    """

    def __init__(
        self,
        spec: PretrainSpec,
        parameters: Iterable[nn.Parameter],
        terms: tuple[str, ...],
        steps_per_epoch: int,
        device: torch.device,
        factors: Mapping[nn.Parameter, float] | None = None,
        undecayed: Set[nn.Parameter] = frozenset(),
    ) -> None:
        self._parameters = [p for p in parameters if p.requires_grad]
        self._peak = peak_learning_rate(spec.optimizer.base_lr, spec.training.batch_size)
        self._warmup_steps = spec.training.warmup_epochs * steps_per_epoch
        self._steps = spec.training.epochs * steps_per_epoch
        self._rewarmed_at: int | None = None
        if spec.extends is not None and spec.extends.schedule == "rewarm":
            self._rewarmed_at = spec.extends.epochs * steps_per_epoch
        self.finite = FiniteWatch(terms, device)
        """Whether every term and gradient has been finite so far."""
        self.optimizer = build_optimizer(
            spec.optimizer, parameter_groups(self._parameters, factors, undecayed), self._peak
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=spec.training.precision == "fp16")

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step, numbered from 0."""
        if self._rewarmed_at is not None:
            return rewarmed_learning_rate(
                step, self._peak, self._warmup_steps, self._rewarmed_at, self._steps
            )
        return learning_rate(step, self._peak, self._warmup_steps, self._steps)

    def step(
        self,
        step: int,
        terms: Mapping[str, Tensor],
        backward: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Update the parameters by the gradient of ``terms["loss"]``. Never waits for the device.

        If the loss or the gradient is not finite, neither this step nor any later one changes a
        parameter. With a loss scale (fp16), an overflowing gradient is expected: the step is
        skipped and the scale lowered.

        Args:
            step: the step's number, from 0.
            terms: the loss and its terms, scalars.
            backward: adds the gradient of a loss to that of the parameters. Default: autograd.

        Returns:
            The norm of the gradient, a scalar.
        """
        rate = self.learning_rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        values = torch.stack([term.detach() for term in terms.values()])
        loss: Tensor = self.scaler.scale(terms["loss"])
        if self.scaler.is_enabled():
            found = self.finite.note(step + 1, values, values.new_zeros(()))
            # The scaler skips a step whose gradient is not finite: from the first bad one on, all.
            loss = loss * torch.where(found > 0, torch.nan, 1.0)
        if backward is None:
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            backward(loss)
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in self._parameters if p.grad is not None]
        )
        if self.scaler.is_enabled():
            norm = norm / self.scaler.scale(torch.ones_like(norm))
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.found_inf = self.finite.note(  # type: ignore[attr-defined]
                step + 1, values, norm
            )
            self.optimizer.step()
        # Now, and not before the next backward pass: the forward pass can use the memory.
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def found_inf(self) -> Tensor:
        """1.0 from the first step on whose loss or gradient is not finite, else 0.0: a scalar."""
        return self.finite.found()

    def problem(self) -> NotFinite | None:
        """The first step whose loss or gradient is not finite. Waits for the device."""
        return self.finite.problem()

    def state_dict(self) -> dict[str, Any]:
        """The state of the optimiser and of the loss scale."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
