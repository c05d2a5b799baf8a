"""Convolutions of small maps equal torch's, and are computed as products."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vicreg_workers.selfsup.model.small_convolution import SmallMapConv2d, multiply_small_maps


def value_and_gradients(layer: nn.Conv2d, maps: Tensor) -> list[Tensor]:
    maps = maps.clone().requires_grad_()
    layer.zero_grad()
    value = layer(maps)
    value.backward(torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view(value.shape))
    assert maps.grad is not None
    gradients = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
    assert len(gradients) == len(list(layer.parameters()))
    return [value.detach(), maps.grad, *gradients]


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 2), (3, 2), (4, 4)])
@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 1, "stride": 2, "bias": False},
        {"kernel_size": 1},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": (3, 5), "padding": (1, 2)},
        {"kernel_size": 3, "padding": 1, "groups": 2},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": 3, "padding": "same"},
    ],
)
def test_value_and_gradients_are_torchs(settings: dict[str, object], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    maps = torch.randn(3, 4, *size, dtype=torch.float64)
    layer = nn.Conv2d(4, 6, dtype=torch.float64, **settings)  # type: ignore[arg-type]
    expected = value_and_gradients(layer, maps)
    multiply_small_maps(layer)
    assert type(layer) is SmallMapConv2d
    for ours, torchs in zip(value_and_gradients(layer, maps), expected, strict=True):
        torch.testing.assert_close(ours, torchs)


def test_padding_costs_nothing_on_a_small_map() -> None:
    maps = torch.randn(3, 4, 1, 1)
    layer = nn.Conv2d(4, 6, 3, padding=1, bias=False)
    multiply_small_maps(layer)
    with FlopCounterMode(display=False) as counter:
        layer(maps)
    assert counter.get_total_flops() == 2 * 3 * 4 * 6  # a ninth of the kernel's
