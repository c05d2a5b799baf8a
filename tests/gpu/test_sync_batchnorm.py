"""Synchronised BatchNorm by torch's kernels for GPUs is BatchNorm on the whole batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from tests.unit.selfsup.model.test_sync_batchnorm import batch_norm
from tests.unit.selfsup.processes import Gloo
from vicreg_platform.cli.local import free_ports
from vicreg_workers.selfsup.model.sync_batchnorm import (
    NormaliseOnGpu,
    SyncBatchNorm,
    synchronise_batchnorm,
)

SHAPES = [(64, 5), (16, 3, 4, 4)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
CASES = [
    (shape, dtype, layout)
    for shape in SHAPES
    for dtype in DTYPES
    for layout in (LAYOUTS if len(shape) == 4 else LAYOUTS[:1])
]


def batch(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(shape, generator=generator) * 3 + 10
    return x.to(dtype), torch.randn(shape, generator=generator).to(dtype)


def expected(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Tensor]:
    """Ordinary BatchNorm on the whole batch, in float64."""
    x, gradient = (z.double() for z in batch(shape, dtype))
    module = batch_norm(shape).double()
    x.requires_grad_()
    output = module(x)
    output.backward(gradient)
    return {
        "output": output.detach(), "input": x.grad, "weight": module.weight.grad,
        "bias": module.bias.grad, "mean": module.running_mean, "var": module.running_var,
    }  # fmt: skip


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor], dtype: torch.dtype) -> None:
    bound = 1e-4 if dtype == torch.float32 else 2e-2
    errors = {
        name: float((found[name].double().cpu() - value).norm() / value.norm())
        for name, value in wanted.items()
    }
    assert {name: error for name, error in errors.items() if not error < bound} == {}


@pytest.fixture(scope="module")
def _group_of_one(gpu: torch.device) -> Iterator[None]:
    (port,) = free_ports(1)
    dist.init_process_group(
        "nccl", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1, device_id=gpu
    )
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_group_of_one")
@pytest.mark.parametrize(("shape", "dtype", "layout"), CASES)
def test_one_process_with_nccl(
    gpu: torch.device, shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format
) -> None:
    """The function is called itself: in one process, the module is an ordinary BatchNorm."""
    x, gradient = (z.to(gpu).contiguous(memory_format=layout) for z in batch(shape, dtype))
    module = batch_norm(shape).to(gpu)
    x.requires_grad_()
    output = NormaliseOnGpu.apply(
        x, module.weight, module.bias, module.running_mean, module.running_var,
        module.momentum, module.eps,
    )  # fmt: skip
    output.backward(gradient)
    assert x.grad is not None
    assert (output.dtype, x.grad.dtype) == (dtype, dtype)
    found = {
        "output": output.detach(), "input": x.grad, "weight": module.weight.grad,
        "bias": module.bias.grad, "mean": module.running_mean, "var": module.running_var,
    }  # fmt: skip
    assert_close(found, expected(shape, dtype), dtype)


def gathers_on_gpu() -> str | None:
    """Why gloo cannot gather what is on a GPU, or None."""
    try:
        gathered = torch.empty(dist.get_world_size(), device="cuda")
        dist.all_gather_into_tensor(gathered, torch.ones(1, device="cuda"))
    except (RuntimeError, NotImplementedError) as error:
        return str(error).splitlines()[0]
    return None


def share(
    shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format
) -> dict[str, Tensor]:
    """What one process computes of the whole batch; the processes share the GPU."""
    x, gradient = (
        z.chunk(dist.get_world_size())[dist.get_rank()].cuda().contiguous(memory_format=layout)
        for z in batch(shape, dtype)
    )
    module: Any = synchronise_batchnorm(batch_norm(shape).cuda())
    assert isinstance(module, SyncBatchNorm)
    x = x.clone().requires_grad_()
    output = module(x)
    output.backward(gradient)
    assert x.grad is not None
    found = {
        "output": output.detach(), "input": x.grad, "weight": module.weight.grad,
        "bias": module.bias.grad, "mean": module.running_mean, "var": module.running_var,
    }  # fmt: skip
    return {name: value.cpu() for name, value in found.items()}


@pytest.mark.parametrize(("shape", "dtype", "layout"), CASES)
def test_two_processes_on_one_gpu(
    two_processes: Gloo,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    layout: torch.memory_format,
) -> None:
    """With gloo: NCCL refuses two processes on one GPU."""
    reason = two_processes.run(gathers_on_gpu)[0]
    if reason is not None:
        pytest.skip(f"gloo does not gather tensors on GPUs: {reason}")
    first, second = two_processes.run(share, shape, dtype, layout)
    for name in ("mean", "var"):
        assert torch.equal(first[name], second[name])
    found = {name: torch.cat([first[name], second[name]]) for name in ("output", "input")}
    found |= {name: first[name] + second[name] for name in ("weight", "bias")}
    found |= {name: first[name] for name in ("mean", "var")}
    assert_close(found, expected(shape, dtype), dtype)


def test_the_statistics_in_eval_mode_are_the_running_ones(gpu: torch.device) -> None:
    x, _ = batch((16, 3, 4, 4), torch.float32)
    module = batch_norm((16, 3, 4, 4)).eval()
    wanted = functional.batch_norm(
        x, module.running_mean, module.running_var, module.weight, module.bias
    )
    found = synchronise_batchnorm(module.to(gpu))(x.to(gpu))
    torch.testing.assert_close(found.detach().cpu(), wanted.detach(), rtol=1e-4, atol=1e-4)
