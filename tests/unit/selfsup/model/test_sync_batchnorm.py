"""Synchronised BatchNorm is BatchNorm on the concatenated batch.

The function for GPUs runs on kernels that torch has for GPUs only. Here they are written again for
CPUs, from their definition.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.selfsup.processes import Gloo
from vicreg_workers.selfsup.model import sync_batchnorm
from vicreg_workers.selfsup.model.sync_batchnorm import SyncBatchNorm, synchronise_batchnorm

SHAPES = [(8, 5), (6, 3, 4, 4)]


def batch_norm(shape: tuple[int, ...]) -> Any:
    torch.manual_seed(1)
    module: Any = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(shape[1])
    nn.init.uniform_(module.weight, 0.5, 2.0)
    nn.init.uniform_(module.bias, -1.0, 1.0)
    return module


def images(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    # A mean far from zero: a variance by E[x²] - E[x]² would lose its digits.
    x = torch.randn(shape, generator=generator) * 3 + 1000
    return x, torch.randn(shape, generator=generator)


def over_all_but_channel(x: Tensor) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def along_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.ndim - 2))


def stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(x.double(), over_all_but_channel(x), correction=0)
    return mean.float(), torch.rsqrt(variance + eps).float()


def gather_stats(
    x: Tensor, means: Tensor, inverse_stds: Tensor, running_mean: Tensor, running_var: Tensor,
    momentum: float, eps: float, counts: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    means, counts = means.double(), counts.double()[:, None]
    variances = inverse_stds.double() ** -2 - eps
    mean = (means * counts).sum(0) / counts.sum()
    variance = ((variances + (means - mean) ** 2) * counts).sum(0) / counts.sum()
    running_mean.mul_(1 - momentum).add_(mean * momentum)
    running_var.mul_(1 - momentum).add_(variance * counts.sum() / (counts.sum() - 1) * momentum)
    return mean.float(), torch.rsqrt(variance + eps).float()


def elemt(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse_std: Tensor, eps: float
) -> Tensor:
    slope = weight.double() * inverse_std.double()
    centred = x.double() - along_channel(mean.double(), x)
    return (centred * along_channel(slope, x) + along_channel(bias.double(), x)).float()


def backward_reduce(
    gradient: Tensor, x: Tensor, mean: Tensor, inverse_std: Tensor, weight: Tensor,
    for_input: bool, for_weight: bool, for_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    gradient = gradient.double()
    axes = over_all_but_channel(x)
    total = gradient.sum(axes)
    product = (gradient * (x.double() - along_channel(mean.double(), x))).sum(axes)
    return total.float(), product.float(), (product * inverse_std).float(), total.float()


def backward_elemt(
    gradient: Tensor, x: Tensor, mean: Tensor, inverse_std: Tensor, weight: Tensor,
    total: Tensor, product: Tensor, counts: Tensor,
) -> Tensor:  # fmt: skip
    assert counts.dtype == torch.int32
    count = counts.sum()
    centred = x.double() - along_channel(mean.double(), x)
    projected = along_channel(product / count * inverse_std.double() ** 2, x)
    left = gradient.double() - along_channel(total / count, x) - centred * projected
    return (left * along_channel(weight * inverse_std, x)).float()


KERNELS: dict[str, Callable[..., Any]] = {
    "batch_norm_stats": stats,
    "batch_norm_gather_stats_with_counts": gather_stats,
    "batch_norm_elemt": elemt,
    "batch_norm_backward_reduce": backward_reduce,
    "batch_norm_backward_elemt": backward_elemt,
}


def share_by_kernels_of_gpus(shape: tuple[int, ...]) -> dict[str, Tensor]:
    with (
        torch.library._scoped_library("aten", "IMPL") as library,
        pytest.MonkeyPatch.context() as m,
    ):
        for name, kernel in KERNELS.items():
            library.impl(name, kernel, "CPU")
        m.setattr(sync_batchnorm, "NormaliseOnCpu", sync_batchnorm.NormaliseOnGpu)
        return share(shape)


def share(shape: tuple[int, ...]) -> dict[str, Tensor]:
    import torch.distributed as dist

    x, gradient = (z.chunk(dist.get_world_size())[dist.get_rank()] for z in images(shape))
    module = synchronise_batchnorm(batch_norm(shape))
    assert isinstance(module, SyncBatchNorm)
    x = x.clone().requires_grad_()
    output = module(x)
    output.backward(gradient)
    summed = {}
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None
        dist.all_reduce(parameter.grad)
        summed[name] = parameter.grad
    assert x.grad is not None
    return {
        "output": output.detach(),
        "input": x.grad,
        "mean": module.running_mean,
        "var": module.running_var,
        "tracked": module.num_batches_tracked,
        **summed,
    }


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("function", [share, share_by_kernels_of_gpus])
def test_two_processes_are_one_on_the_concatenated_batch(
    two_processes: Gloo, shape: tuple[int, ...], function: Callable[..., Any]
) -> None:
    x, gradient = images(shape)
    module = batch_norm(shape)
    x.requires_grad_()
    output = module(x)
    output.backward(gradient)
    first, second = two_processes.run(function, shape)
    close: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(torch.cat([first["output"], second["output"]]), output, **close)
    torch.testing.assert_close(torch.cat([first["input"], second["input"]]), x.grad, **close)
    for result in (first, second):
        torch.testing.assert_close(result["weight"], module.weight.grad, **close)
        torch.testing.assert_close(result["bias"], module.bias.grad, **close)
        torch.testing.assert_close(result["mean"], module.running_mean)
        torch.testing.assert_close(result["var"], module.running_var, rtol=1e-4, atol=1e-4)
        assert int(result["tracked"]) == 1


def test_weights_go_in_and_out_unchanged() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    after = synchronise_batchnorm(network).state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_alone_or_in_eval_mode_it_is_batch_norm() -> None:
    plain = batch_norm((4, 3))
    synchronised = synchronise_batchnorm(plain)
    x = torch.randn(4, 3)
    torch.testing.assert_close(synchronised(x), batch_norm((4, 3))(x))
