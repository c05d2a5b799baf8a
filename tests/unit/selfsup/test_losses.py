"""The loss is the authors', on one process and on several."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.unit.selfsup.processes import Gloo
from vicreg_workers.selfsup import VICRegLoss, covariance, invariance, variance


def authors_loss(x: Tensor, y: Tensor) -> Tensor:
    """The formula of the paper, written out dimension by dimension, independently of ours."""
    n, d = x.shape
    total = 25.0 * ((x - y) ** 2).sum() / (n * d)
    for z in (x, y):
        centred = z - z.sum(0) / n
        spread = torch.sqrt((centred**2).sum(0) / (n - 1) + 1e-4)
        total = total + 25.0 * functional.relu(1 - spread).sum() / d / 2
        matrix = centred.T @ centred / (n - 1)
        outside = ~torch.eye(d, dtype=torch.bool)
        total = total + (matrix[outside] ** 2).sum() / d
    return total


def batches(n: int, d: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n * 1000 + d)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) * 0.7 + 0.3
    return x, x + 0.2 * torch.randn(n, d, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("n", "d"), [(2, 2), (2, 7), (3, 16), (16, 3), (8, 8), (64, 32), (32, 64)])
def test_value_and_gradient_are_the_authors(n: int, d: int) -> None:
    x, y = (z.requires_grad_() for z in batches(n, d))
    expected = authors_loss(x, y)
    gradients = torch.autograd.grad(expected, (x, y))
    ours = VICRegLoss()(x, y).total
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)
    for mine, theirs in zip(torch.autograd.grad(ours, (x, y)), gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_the_total_weighs_the_bare_terms() -> None:
    x, y = batches(8, 5)
    terms = VICRegLoss(invariance=2.0, variance=3.0, covariance=5.0)(x, y)
    torch.testing.assert_close(terms.invariance, invariance(x, y))
    torch.testing.assert_close(terms.variance, (variance(x) + variance(y)) / 2)
    torch.testing.assert_close(terms.covariance, covariance(x) + covariance(y))
    torch.testing.assert_close(
        terms.total, 2 * terms.invariance + 3 * terms.variance + 5 * terms.covariance
    )


def test_constant_embeddings_have_a_finite_gradient() -> None:
    x = torch.ones(4, 3, requires_grad=True)
    terms = VICRegLoss()(x, torch.ones(4, 3))
    terms.total.backward()
    assert terms.variance.item() == pytest.approx(0.99)
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_half_precision_embeddings_do_not_overflow() -> None:
    x = torch.full((4, 2), 200.0, dtype=torch.float16)
    x[::2] *= -1
    terms = VICRegLoss()(x, x)
    assert terms.total.dtype == torch.float32
    # Two equal columns of variance 53,333: their covariance, squared, is far beyond float16.
    assert float(terms.covariance) == pytest.approx(2 * (200.0**2 * 4 / 3) ** 2, rel=1e-5)


@pytest.mark.parametrize("shapes", [((4, 3), (4, 2)), ((4, 3), (5, 3)), ((4, 3, 1), (4, 3, 1))])
def test_batches_of_other_shapes_are_refused(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    with pytest.raises(ValueError, match="one shape"):
        VICRegLoss()(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def local_share(x: Tensor, y: Tensor) -> tuple[float, Tensor, Tensor]:
    """One process's value and gradient on its half of the batch, averaged as DDP averages."""
    import torch.distributed as dist

    rank, size = dist.get_rank(), dist.get_world_size()
    mine = [z.chunk(size)[rank].clone().requires_grad_() for z in (x, y)]
    total = VICRegLoss()(*mine).total
    gradients = torch.autograd.grad(total, mine)
    value = total.detach().clone()
    dist.all_reduce(value)
    return float(value / size), gradients[0] / size, gradients[1] / size


@pytest.mark.parametrize(("n", "d"), [(4, 3), (8, 16), (32, 8)])
def test_two_processes_are_one_process_on_the_concatenated_batch(
    two_processes: Gloo, n: int, d: int
) -> None:
    x, y = batches(n, d)
    shares = two_processes.run(local_share, x, y)
    x.requires_grad_()
    y.requires_grad_()
    expected = VICRegLoss()(x, y).total
    expected.backward()
    for value, _, _ in shares:
        assert value == pytest.approx(float(expected), rel=1e-12)
    torch.testing.assert_close(torch.cat([share[1] for share in shares]), x.grad)
    torch.testing.assert_close(torch.cat([share[2] for share in shares]), y.grad)
