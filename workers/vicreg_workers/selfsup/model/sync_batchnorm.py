"""Batch normalisation over the batch of all processes.

torch's ``SyncBatchNorm`` works on GPUs only, and in every layer waits for the device to leave out
processes without images. Here every process has the same number of images, so there is nothing to
leave out: one all-gather forward, one all-reduce backward. Parameters are named as in
``BatchNorm``, so that weights can be exchanged with it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vicreg_workers.selfsup.distributed import gather, refuse_second_derivative, world_size

Gradients = tuple[Tensor, Tensor | None, Tensor | None, None, None, None, None]


class SyncBatchNorm(_BatchNorm):
    """BatchNorm whose training statistics are those of all processes' concatenated batch.

    Every process must have as many values per channel as every other.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """Normalise ``[N, C, ...]`` over every dimension but C."""
        if not self.training or world_size() == 1:
            return super().forward(input)
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
        normalise = NormaliseOnGpu if input.is_cuda else NormaliseOnCpu
        normalised: Tensor = normalise.apply(
            input,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            self.momentum,
            self.eps,
        )
        return normalised

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002
        if input.ndim < 2:
            raise ValueError(f"expected [N, C, ...], got {input.ndim} dimension(s)")


class SyncBatchNormAct(SyncBatchNorm):
    """``SyncBatchNorm`` with what timm's ``BatchNormAct2d`` does after it."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """Normalise ``[N, C, H, W]`` over every dimension but C, then drop and activate."""
        activated: Tensor = self.act(self.drop(super().forward(input)))
        return activated


def has_batchnorm(module: nn.Module) -> bool:
    """Whether some layer of ``module`` is a BatchNorm."""
    return any(isinstance(each, _BatchNorm) for each in module.modules())


def synchronise_batchnorm(module: nn.Module) -> nn.Module:
    """Replace every BatchNorm in ``module`` by one synchronised over the processes."""
    for name, child in module.named_children():
        setattr(module, name, synchronise_batchnorm(child))
    if not isinstance(module, _BatchNorm) or isinstance(module, SyncBatchNorm):
        return module
    # timm's BatchNorm is followed by an activation of its own.
    activated = isinstance(getattr(module, "act", None), nn.Module)
    synchronised = (SyncBatchNormAct if activated else SyncBatchNorm)(
        module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
    )
    synchronised.to(module.running_mean.device if module.running_mean is not None else None)
    if isinstance(synchronised, SyncBatchNormAct):
        synchronised.drop, synchronised.act = module.drop, module.act  # type: ignore[assignment]
    synchronised.load_state_dict(module.state_dict())
    synchronised.training = module.training
    return synchronised


class NormaliseOnCpu(torch.autograd.Function):
    """Ioffe & Szegedy 2015, Algorithm 1 and its gradient, with sums over all processes.

    torch's own kernels for fixed statistics do the passes over the images. They leave out the
    gradient through the statistics, which is linear in the input and added here.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        """Normalise ``x`` ``[N, C, ...]`` and update the running statistics ``[C]``."""
        local_variance, local_mean = torch.var_mean(
            x.float(), dim=_all_but_channel(x), correction=0
        )
        means, variances = _gathered(local_mean, local_variance)
        # Chan et al. 1979: combining means and variances avoids cancellation.
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        count = world_size() * _count(x)
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(variance * (count / (count - 1)), momentum)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps, ctx.count = eps, count
        return torch.batch_norm(x, weight, bias, mean, variance, False, 0.0, eps, False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Gradients:
        """The gradients of input, weight and bias.

        Those of weight and bias are of this process alone: DistributedDataParallel averages them.
        """
        refuse_second_derivative("SyncBatchNorm")
        x, weight, mean, variance = ctx.saved_tensors
        shape = [1, -1] + [1] * (x.ndim - 2)
        input_gradient, weight_gradient, bias_gradient = torch.ops.aten.native_batch_norm_backward(
            gradients[0], x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.cat([bias_gradient, weight_gradient])
        dist.all_reduce(sums)
        mean_gradient, mean_projection = (sums / ctx.count).chunk(2)
        inverse_std = torch.rsqrt(variance + ctx.eps)
        scale = inverse_std if weight is None else weight * inverse_std
        slope = -scale * inverse_std * mean_projection
        offset = -scale * mean_gradient - slope * mean
        input_gradient = input_gradient + (x * slope.view(shape) + offset.view(shape))
        input_gradient = input_gradient.to(x.dtype)
        return _returned(weight, input_gradient, weight_gradient, bias_gradient)


class NormaliseOnGpu(torch.autograd.Function):
    """The same by the kernels that torch has for it on GPUs. Nothing waits for the device."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        """Normalise ``x`` ``[N, C, ...]`` and update the running statistics ``[C]``."""
        x = _dense(x)
        means, inverse_stds = _gathered(*torch.batch_norm_stats(x, eps))
        counts = means.new_full((world_size(),), _count(x))
        mean, inverse_std = torch.batch_norm_gather_stats_with_counts(
            x, means, inverse_stds, running_mean, running_var, momentum, eps, counts
        )
        ctx.save_for_backward(x, weight, mean, inverse_std)
        return torch.batch_norm_elemt(x, weight, bias, mean, inverse_std, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Gradients:
        """As ``NormaliseOnCpu.backward``."""
        refuse_second_derivative("SyncBatchNorm")
        x, weight, mean, inverse_std = ctx.saved_tensors
        gradient = _dense(gradients[0])
        affine = weight is not None
        *local, weight_gradient, bias_gradient = torch.batch_norm_backward_reduce(
            gradient, x, mean, inverse_std, weight, True, affine, affine
        )
        sums = torch.cat(local)
        dist.all_reduce(sums)
        sum_gradient, sum_product = sums.chunk(2)
        counts = mean.new_full((world_size(),), _count(x), dtype=torch.int32)
        input_gradient = torch.batch_norm_backward_elemt(
            gradient, x, mean, inverse_std, weight, sum_gradient, sum_product, counts
        )
        return _returned(weight, input_gradient, weight_gradient, bias_gradient)


def _returned(
    weight: Tensor | None, of_input: Tensor, of_weight: Tensor, of_bias: Tensor
) -> Gradients:
    """What a backward pass returns: without a weight, there are no gradients of it and the bias."""
    if weight is None:
        return of_input, None, None, None, None, None, None
    return of_input, of_weight, of_bias, None, None, None, None


def _gathered(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two statistics ``[C]`` of each process, as ``[processes, C]`` each."""
    both = gather(torch.stack([first, second])).view(world_size(), 2, -1)
    return both[:, 0], both[:, 1]


def _count(x: Tensor) -> int:
    """Values per channel in this process."""
    return x.numel() // x.shape[1]


def _all_but_channel(x: Tensor) -> list[int]:
    return [dimension for dimension in range(x.ndim) if dimension != 1]


def _dense(x: Tensor) -> Tensor:
    """The values in a layout that the kernels are fast with: channels last, or first."""
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x
    return x.contiguous()
