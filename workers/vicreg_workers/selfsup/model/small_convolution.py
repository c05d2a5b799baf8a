"""Convolutions of small maps, computed as matrix products.

If every output position sees every input position (a padded 3×3 kernel on a map of at most 2×2, as
in a ResNet's last stages on images of 32 pixels), a convolution is one dense matrix from all inputs
to all outputs. Convolution kernels spend time on the padding; on CPUs, the product is several times
faster (docs/performance.md).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn


class SmallMapConv2d(nn.Conv2d):
    """``nn.Conv2d``, equal up to rounding and faster on small maps. For CPUs."""

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve maps ``[N, C, H, W]`` to maps ``[N, C', H', W']``."""
        plain = self.groups == 1 and self.dilation == (1, 1) and self.padding_mode == "zeros"
        if not plain or isinstance(self.padding, str):
            return super().forward(maps)
        axes = zip(maps.shape[2:], self.kernel_size, self.stride, self.padding, strict=True)
        rows, columns = (_taps_along(*axis) for axis in axes)
        if rows is None or columns is None:
            return super().forward(maps)
        # [rows out, columns out, rows in, columns in]: the kernel's tap between the two.
        taps = rows[:, None, :, None] * self.kernel_size[1] + columns[None, :, None, :]
        outputs, inputs = len(rows) * len(columns), rows.shape[1] * columns.shape[1]
        matrix = self.weight.flatten(2).permute(2, 0, 1).index_select(0, taps.flatten())
        matrix = matrix.view(outputs, inputs, self.out_channels, self.in_channels)
        matrix = matrix.transpose(1, 2).reshape(outputs * self.out_channels, -1)
        bias = None if self.bias is None else self.bias.repeat(outputs)
        pixels = maps.permute(0, 2, 3, 1).reshape(len(maps), -1)
        values = nn.functional.linear(pixels, matrix, bias)
        return values.view(-1, len(rows), len(columns), self.out_channels).permute(0, 3, 1, 2)


@lru_cache
def _taps_along(size: int, kernel: int, stride: int, padding: int) -> Tensor | None:
    """The tap between each output and input, ``[outputs, inputs]``; None if some pair has none."""
    outputs = (size + 2 * padding - kernel) // stride + 1
    taps = torch.arange(size)[None] - stride * torch.arange(outputs)[:, None] + padding
    return taps if bool(((taps >= 0) & (taps < kernel)).all()) else None


def multiply_small_maps(network: nn.Module) -> None:
    """Make every convolution of a network a ``SmallMapConv2d``, keeping its weights."""
    for module in network.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = SmallMapConv2d
