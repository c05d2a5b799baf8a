"""Synchronised BatchNorm is BatchNorm on the concatenated batch."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.selfsup.processes import Gloo
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


def share(shape: tuple[int, ...]) -> dict[str, Tensor]:
    import torch.distributed as dist

    x, gradient = (z.chunk(dist.get_world_size())[dist.get_rank()] for z in images(shape))
    module = synchronise_batchnorm(batch_norm(shape), torch.device("cpu"))
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
def test_two_processes_are_one_on_the_concatenated_batch(
    two_processes: Gloo, shape: tuple[int, ...]
) -> None:
    x, gradient = images(shape)
    module = batch_norm(shape)
    x.requires_grad_()
    output = module(x)
    output.backward(gradient)
    first, second = two_processes.run(share, shape)
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
    after = synchronise_batchnorm(network, torch.device("cpu")).state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_alone_or_in_eval_mode_it_is_batch_norm() -> None:
    plain = batch_norm((4, 3))
    synchronised = synchronise_batchnorm(plain, torch.device("cpu"))
    x = torch.randn(4, 3)
    torch.testing.assert_close(synchronised(x), batch_norm((4, 3))(x))
