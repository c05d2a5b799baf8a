"""Batch normalisation over the batch of all processes, on any device.

torch's ``SyncBatchNorm`` works on GPUs only. This one needs only a process group: one all-gather
forward, one all-reduce backward. Parameters are named as in ``BatchNorm``, so that weights can be
exchanged with it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vicreg_workers.selfsup.distributed import refuse_second_derivative, world_size


class SyncBatchNorm(_BatchNorm):
    """BatchNorm whose training statistics are those of all processes' concatenated batch."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """Normalise ``[N, C, ...]`` over every dimension but C."""
        if not self.training or world_size() == 1:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        output, mean, variance, count = _Normalise.apply(input, self.weight, self.bias, self.eps)
        with torch.no_grad():
            self.num_batches_tracked += 1
            momentum = (
                self.momentum
                if self.momentum is not None
                else 1.0 / float(self.num_batches_tracked)
            )
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), momentum)
        normalised: Tensor = output
        return normalised

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002
        if input.ndim < 2:
            raise ValueError(f"expected [N, C, ...], got {input.ndim} dimension(s)")


def synchronise_batchnorm(module: nn.Module, device: torch.device) -> nn.Module:
    """Replace every BatchNorm in ``module`` by one synchronised over the processes.

    On GPUs by torch's own, elsewhere by this file's.
    """
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(  # type: ignore[no-untyped-call]
            module
        )
        return converted
    for name, child in module.named_children():
        setattr(module, name, synchronise_batchnorm(child, device))
    if not isinstance(module, _BatchNorm) or isinstance(module, SyncBatchNorm):
        return module
    synchronised = SyncBatchNorm(
        module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
    )
    synchronised.load_state_dict(module.state_dict())
    synchronised.training = module.training
    return synchronised.to(device)


class _Normalise(torch.autograd.Function):
    """Ioffe & Szegedy 2015, Algorithm 1 and its gradient, with sums over all processes.

    torch's own kernels for fixed statistics do the passes over the images. They leave out the
    gradient through the statistics, which is linear in the input and added here.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, float]:
        channels = x.shape[1]
        local_variance, local_mean = torch.var_mean(
            x.float(), dim=_all_but_channel(x), correction=0
        )
        local_count = local_mean.new_full((1,), x.numel() / channels)
        packed = torch.cat([local_mean, local_variance, local_count])
        gathered = packed.new_empty(world_size() * packed.numel())
        dist.all_gather_into_tensor(gathered, packed)
        means, variances, counts = torch.split(
            gathered.view(world_size(), -1), [channels, channels, 1], dim=1
        )
        count = counts.sum()
        # Chan et al. 1979: combining means and variances avoids cancellation.
        mean = (means * counts).sum(0) / count
        variance = ((variances + (means - mean).pow(2)) * counts).sum(0) / count
        output = torch.batch_norm(x, weight, bias, mean, variance, False, 0.0, eps, False)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps, ctx.count = eps, float(count)
        ctx.mark_non_differentiable(mean, variance)
        return output, mean, variance, ctx.count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        refuse_second_derivative("SyncBatchNorm")
        x, weight, mean, variance = ctx.saved_tensors
        shape = [1, -1] + [1] * (x.ndim - 2)
        input_gradient, weight_gradient, bias_gradient = torch.ops.aten.native_batch_norm_backward(
            gradients[0], x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        # The parameters' gradients stay local: DistributedDataParallel averages them.
        sums = torch.cat([bias_gradient, weight_gradient])
        dist.all_reduce(sums)
        mean_gradient, mean_projection = (sums / ctx.count).chunk(2)
        inverse_std = torch.rsqrt(variance + ctx.eps)
        scale = inverse_std if weight is None else weight * inverse_std
        slope = -scale * inverse_std * mean_projection
        offset = -scale * mean_gradient - slope * mean
        input_gradient = input_gradient + (x * slope.view(shape) + offset.view(shape))
        input_gradient = input_gradient.to(x.dtype)
        if weight is None:
            return input_gradient, None, None, None
        return input_gradient, weight_gradient, bias_gradient, None


def _all_but_channel(x: Tensor) -> list[int]:
    return [dimension for dimension in range(x.ndim) if dimension != 1]
