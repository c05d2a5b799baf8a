"""The loss is the authors', on one process and on several."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

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


SIZES = [(2, 1), (2, 2), (2, 7), (3, 16), (16, 3), (8, 8), (9, 8), (8, 9), (64, 32), (32, 512)]


@pytest.mark.parametrize(("n", "d"), SIZES)
def test_value_and_gradient_are_the_authors(n: int, d: int) -> None:
    x, y = (z.requires_grad_() for z in batches(n, d))
    expected = authors_loss(x, y)
    gradients = torch.autograd.grad(expected, (x, y))
    ours = VICRegLoss()(x, y).total
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)
    for mine, theirs in zip(torch.autograd.grad(ours, (x, y)), gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("n", "d"), [(64, 16), (64, 2048)])
def test_single_precision_is_exact_to_its_own_rounding(n: int, d: int) -> None:
    x, y = batches(n, d)
    expected = authors_loss(x.requires_grad_(), y)
    (gradient,) = torch.autograd.grad(expected, x)
    single = x.detach().float().requires_grad_()
    ours = VICRegLoss()(single, y.float()).total
    (mine,) = torch.autograd.grad(ours, single)
    assert float(ours) == pytest.approx(float(expected), rel=1e-6)
    assert float((mine - gradient).norm() / gradient.norm()) < 2e-6


@pytest.mark.parametrize("term", ["variance", "covariance"])
def test_each_term_has_its_own_gradient(term: str) -> None:
    """Not only the total's: a caller may weigh the bare terms otherwise."""
    x, y = (z.requires_grad_() for z in batches(6, 9))
    (mine,) = torch.autograd.grad(getattr(VICRegLoss()(x, y), term), x)
    free = {"variance": lambda z: variance(z) / 2, "covariance": covariance}[term]
    (expected,) = torch.autograd.grad(free(x), x)
    torch.testing.assert_close(mine, expected)
    assert torch.autograd.gradcheck(free, x)


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
    """One process's value and gradient on its share of the batch, averaged as DDP averages."""
    rank, size = dist.get_rank(), dist.get_world_size()
    mine = [z.chunk(size)[rank].clone().requires_grad_() for z in (x, y)]
    total = VICRegLoss()(*mine).total
    gradients = torch.autograd.grad(total, mine)
    value = total.detach().clone()
    dist.all_reduce(value)
    return float(value / size), gradients[0] / size, gradients[1] / size


def assert_like_one_process(processes: Gloo, n: int, d: int) -> None:
    x, y = batches(n, d)
    shares = processes.run(local_share, x, y)
    x.requires_grad_()
    y.requires_grad_()
    expected = VICRegLoss()(x, y).total
    expected.backward()
    for value, _, _ in shares:
        assert value == pytest.approx(float(expected), rel=1e-6)
    for index, z in ((1, x), (2, y)):
        gradient = torch.cat([share[index] for share in shares])
        torch.testing.assert_close(gradient, z.grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("n", "d"), [(4, 3), (8, 16), (32, 8)])
def test_two_processes_are_one_process_on_the_concatenated_batch(
    two_processes: Gloo, n: int, d: int
) -> None:
    assert_like_one_process(two_processes, n, d)


@pytest.mark.parametrize(("n", "d"), [(4, 3), (8, 16), (32, 8)])
def test_four_processes_are_one_process_on_the_concatenated_batch(
    four_processes: Gloo, n: int, d: int
) -> None:
    assert_like_one_process(four_processes, n, d)


def operations_of_a_rank(n: int, d: int) -> int:
    share = [torch.randn(n // dist.get_world_size(), d, requires_grad=True) for _ in range(2)]
    with FlopCounterMode(display=False) as counter:
        VICRegLoss()(*share).total.backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize(("n", "d"), [(64, 512), (512, 64)])
def test_the_work_of_a_rank_falls_with_the_number_of_ranks(
    four_processes: Gloo, n: int, d: int
) -> None:
    alone = [torch.randn(n, d, requires_grad=True) for _ in range(2)]
    with FlopCounterMode(display=False) as counter:
        VICRegLoss()(*alone).total.backward()
    for operations in four_processes.run(operations_of_a_rank, n, d):
        assert operations == counter.get_total_flops() / 4


@pytest.mark.parametrize(("n", "d"), [(8, 32), (32, 8)])
@pytest.mark.parametrize("loss", [VICRegLoss(), VICRegLoss(variance=0.0)])
def test_a_second_derivative_is_refused(n: int, d: int, loss: VICRegLoss) -> None:
    x, y = (z.requires_grad_() for z in batches(n, d))
    with pytest.raises(RuntimeError, match="second derivative of the variance and covariance"):
        torch.autograd.grad(loss(x, y), x, create_graph=True)


def test_the_coefficients_of_eb_jepa_are_other_multiples_of_the_papers() -> None:
    """As the recipe ``sweep-narrow-projector`` says: its std 1 is a variance of 2, its covariance
    100 is 100 / (D - 1)."""
    x, y = batches(512, 64)
    outside = ~torch.eye(64, dtype=torch.bool)
    theirs = functional.mse_loss(x, y)
    for z in (x, y):
        # The means over the dimensions and over the D (D - 1) covariances, summed over the views.
        theirs = theirs + functional.relu(1 - torch.sqrt(z.var(dim=0) + 1e-4)).mean()
        theirs = theirs + 100 * (torch.cov(z.T)[outside] ** 2).mean()
    ours = VICRegLoss(invariance=1.0, variance=2.0, covariance=100 / 63)(x, y)
    assert ours.total.item() == pytest.approx(theirs.item())
