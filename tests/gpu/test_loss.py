"""On a GPU the losses are those of the CPU in double precision."""

from __future__ import annotations

import pytest
import torch

from tests.unit.gpu.test_training import METHODS, spec_of
from tests.unit.selfsup.loss.test_vicreg import authors_loss, batches
from vicreg_workers.selfsup import VICRegLoss
from vicreg_workers.selfsup.loss.methods import MethodLoss

SIZES = [(2, 7), (64, 32), (32, 512), (1024, 512), (256, 2048), (64, 4096)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), SIZES)
def test_value_and_gradient_are_the_authors(
    gpu: torch.device, n: int, d: int, dtype: torch.dtype
) -> None:
    """The authors' formula is computed in float64 from the embeddings, rounded as they arrive."""
    rounded = [z.to(dtype) for z in batches(n, d)]
    exact = [z.double().requires_grad_() for z in rounded]
    expected = authors_loss(*exact)
    gradients = torch.autograd.grad(expected, exact)
    there = [z.to(gpu).requires_grad_() for z in rounded]
    with torch.autocast("cuda", torch.bfloat16, enabled=dtype != torch.float32):
        loss = VICRegLoss()(*there).total
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-5)
    close = 1e-5 if dtype == torch.float32 else 1e-2  # a gradient has its embedding's precision
    for mine, theirs in zip(torch.autograd.grad(loss, there), gradients, strict=True):
        assert float((mine.cpu().double() - theirs).norm() / theirs.norm()) < close


@pytest.mark.parametrize("method", METHODS)
def test_every_methods_loss_is_that_of_the_cpu(gpu: torch.device, method: str) -> None:
    spec = spec_of(method)
    loss = MethodLoss(spec.method, spec.expander.normalization)
    values, gradients = [], []
    for device in (torch.device("cpu"), gpu):
        x, y = (z.float().to(device).requires_grad_() for z in batches(128, 256))
        losses = loss(x, y, ((x, y),))
        values.append(torch.stack(list(losses.terms.values())).detach().cpu())
        gradients.append(torch.cat(torch.autograd.grad(losses.terms["loss"], (x, y))).cpu())
    torch.testing.assert_close(values[1], values[0], rtol=1e-4, atol=1e-5)
    assert float((gradients[1] - gradients[0]).norm() / gradients[0].norm()) < 1e-4
