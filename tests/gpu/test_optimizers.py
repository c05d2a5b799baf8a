"""The fused optimisers update parameters on a GPU as on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vicreg_platform.specs import AdamW, Lars, Sgd
from vicreg_workers.selfsup.optim.optimizers import build_optimizer
from vicreg_workers.selfsup.optim.parameter_groups import parameter_groups

SPECS = [
    Sgd(name="sgd"),
    Sgd(name="sgd", momentum=0.0),
    AdamW(name="adamw"),
    Lars.model_validate({}),
    Lars.model_validate({"preset": "cifar"}),
]
SHAPES = [(64, 3, 7, 7), (256,), (128, 256), (1, 5, 16), (3, 3)]


def trained(
    spec: Sgd | AdamW | Lars, device: torch.device, dtype: torch.dtype
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def drawn(shape: tuple[int, ...]) -> torch.Tensor:
        value = torch.randn(shape, generator=generator).to(device, dtype)
        if value.ndim == 4:
            return value.contiguous(memory_format=torch.channels_last)
        return value

    parameters = [nn.Parameter(drawn(shape)) for shape in SHAPES]
    with torch.no_grad():
        parameters[-1].zero_()  # a norm of zero switches the scaling of LARS off
    optimizer = build_optimizer(spec, parameter_groups(parameters), lr=0.1)
    for step in range(5):
        for parameter in parameters:
            parameter.grad = drawn(tuple(parameter.shape))
        # Of these steps the second is to be skipped.
        found = torch.full((), float(step == 1), device=device, dtype=torch.float32)
        optimizer.found_inf = found  # type: ignore[attr-defined]
        optimizer.step()
    return [parameter.detach().cpu().double() for parameter in parameters]


@pytest.mark.parametrize("spec", SPECS)
def test_the_update_is_that_of_the_cpu(gpu: torch.device, spec: Sgd | AdamW | Lars) -> None:
    for mine, theirs in zip(
        trained(spec, gpu, torch.float32),
        trained(spec, torch.device("cpu"), torch.float32),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
