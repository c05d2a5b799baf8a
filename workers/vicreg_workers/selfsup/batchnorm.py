"""Batch normalisation over the batch of all processes, on any device.

torch's ``SyncBatchNorm`` works on GPUs only. This one needs a process group and nothing else:
one all-gather forward, one all-reduce backward. Parameter names are those of ``BatchNorm``, so
that weights go in and out unchanged.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vicreg_workers.selfsup.distributed import world_size


class SyncBatchNorm(_BatchNorm):
    """BatchNorm whose training statistics are those of the concatenated batch of all processes."""

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

    On GPUs that is torch's own; elsewhere it is this file's.
    """
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
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
    """Ioffe & Szegedy 2015, Algorithm 1 and its gradient, with sums over all processes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, float]:
        dimensions = [d for d in range(x.ndim) if d != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        channels = x.shape[1]
        local = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        local_variance, local_mean = torch.var_mean(local, dim=dimensions, correction=0)
        local_count = local.new_full((1,), x.numel() / channels)
        packed = torch.cat([local_mean, local_variance, local_count])
        gathered = packed.new_empty(world_size() * packed.numel())
        dist.all_gather_into_tensor(gathered, packed)
        means, variances, counts = gathered.view(world_size(), -1).split(
            [channels, channels, 1], dim=1
        )
        count = counts.sum()
        # Chan et al. 1979: combining means and variances loses no digits to cancellation.
        mean = (means * counts).sum(0) / count
        variance = ((variances + (means - mean).pow(2)) * counts).sum(0) / count
        inverse_std = torch.rsqrt(variance + eps)
        scale = inverse_std * weight
        output = local * scale.view(shape) + (bias - mean * scale).view(shape)
        ctx.save_for_backward(x, weight, mean, inverse_std)
        ctx.count = float(count)
        ctx.mark_non_differentiable(mean, variance)
        return output.to(x.dtype), mean, variance, ctx.count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, inverse_std = ctx.saved_tensors
        dimensions = [d for d in range(x.ndim) if d != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        gradient = gradients[0].to(mean.dtype)
        centred = x.to(mean.dtype) - mean.view(shape)
        bias_gradient = gradient.sum(dimensions)
        weight_gradient = (gradient * centred).sum(dimensions) * inverse_std
        # The parameters' gradients stay local: DistributedDataParallel averages those.
        sums = torch.cat([bias_gradient, weight_gradient])
        dist.all_reduce(sums)
        mean_gradient, mean_projection = (sums / ctx.count).chunk(2)
        input_gradient = (
            gradient
            - mean_gradient.view(shape)
            - centred * (inverse_std * mean_projection).view(shape)
        ) * (inverse_std * weight).view(shape)
        return input_gradient.to(x.dtype), weight_gradient, bias_gradient, None
