"""Every method's loss is its paper's, and its network has the branches that the spec asks for."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.unit.selfsup.processes import Gloo
from vicreg_platform.errors import InvalidSpec
from vicreg_platform.specs import PretrainSpec, VICReg, parse_spec
from vicreg_workers.selfsup import covariance, invariance, variance
from vicreg_workers.selfsup.loss.methods import MethodLoss, barlow_twins, negative_cosine, nt_xent
from vicreg_workers.selfsup.model.network import JointEmbedding, momentum_at

METHODS = ("vicreg", "barlow_twins", "simclr", "byol", "simsiam")


def spec_for(name: str, **changes: Any) -> PretrainSpec:
    request = {
        "kind": "pretrain",
        "method": {"name": name},
        "backbone": {"name": "resnet10", "stem": "cifar"},
        "expander": {"layers": [16, 12]},
        "data": {"source": "digits", "image_size": 8},
    }
    spec = parse_spec(request | changes)
    assert isinstance(spec, PretrainSpec)
    return spec


def embeddings(n: int, d: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n * 100 + d)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x, x + 0.5 * torch.randn(n, d, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("n", "d"), [(6, 10), (10, 6)])
def test_barlow_twins_is_its_papers_algorithm(n: int, d: int) -> None:
    x, y = embeddings(n, d)
    normal = [(z - z.mean(0)) / torch.sqrt(z.var(0, correction=0) + 1e-5) for z in (x, y)]
    matrix = normal[0].T @ normal[1] / n
    difference = (matrix - torch.eye(d)).square()
    weights = torch.full((d, d), 0.0051).fill_diagonal_(1.0)
    torch.testing.assert_close(barlow_twins(x, y, 0.0051), (difference * weights).sum())


def test_nt_xent_is_its_papers_algorithm() -> None:
    x, y = embeddings(5, 7)
    views = torch.nn.functional.normalize(torch.cat([x, y]), dim=1)
    total = torch.zeros((), dtype=torch.float64)
    for i in range(10):
        positive = (i + 5) % 10
        scores = [torch.exp(views[i] @ views[k] / 0.2) for k in range(10) if k != i]
        total += -torch.log(torch.exp(views[i] @ views[positive] / 0.2) / sum(scores))
    torch.testing.assert_close(nt_xent(x, y, 0.2), total / 10)


def test_the_cosine_is_one_for_parallel_embeddings() -> None:
    x, _ = embeddings(4, 3)
    assert float(negative_cosine(x, 5 * x)) == pytest.approx(-1.0)


def shares(x: Tensor, y: Tensor, method: str) -> tuple[Tensor, Tensor]:
    rank, size = dist.get_rank(), dist.get_world_size()
    mine = [z.chunk(size)[rank].clone().requires_grad_() for z in (x, y)]
    loss = loss_of(method, *mine)
    value = loss.detach().clone()
    dist.all_reduce(value)
    gradients = torch.autograd.grad(loss, mine)
    return value / size, torch.stack(gradients) / size


def loss_of(method: str, x: Tensor, y: Tensor) -> Tensor:
    spec = spec_for(method, method={"name": method, "variance": 2.0, "covariance": 0.5})
    return MethodLoss(spec.method)(x, y, ((x, y),)).terms["loss"]


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_are_one_on_the_concatenated_batch(two_processes: Gloo, method: str) -> None:
    x, y = embeddings(8, 12)
    (value, first), (_, second) = two_processes.run(shares, x, y, method)
    x.requires_grad_()
    y.requires_grad_()
    expected = loss_of(method, x, y)
    gradients = torch.autograd.grad(expected, (x, y))
    torch.testing.assert_close(value, expected.detach(), rtol=1e-6, atol=0)
    for view in range(2):
        together = torch.cat([first[view], second[view]])
        torch.testing.assert_close(together, gradients[view], rtol=1e-6, atol=1e-9)


def with_local_views(x: Tensor, y: Tensor, local: Tensor) -> Tensor:
    """The loss of global views x and y and of local ones, written out pair by pair."""
    n, d = x.shape
    views = [x, y, *local]
    pairs = [(g, v) for g in (0, 1) for v in range(len(views)) if v != g]
    total: Tensor = (
        25.0 * sum(((views[g] - views[v]) ** 2).sum() for g, v in pairs) / len(pairs) / (n * d)
    )
    for z in (x, y):
        matrix = (z - z.mean(0)).T @ (z - z.mean(0)) / (n - 1)
        spread = torch.sqrt(matrix.diagonal() + 1e-4)
        total = total + 25.0 * (1 - spread).clamp(min=0).sum() / d / 2
        total = total + (matrix[~torch.eye(d, dtype=torch.bool)] ** 2).sum() / d
    return total


def shares_with_local_views(x: Tensor, y: Tensor, local: Tensor) -> tuple[Tensor, list[Tensor]]:
    rank, size = dist.get_rank(), dist.get_world_size()
    mine = [z.chunk(size, dim=-2)[rank].clone().requires_grad_() for z in (x, y, local)]
    loss = loss_with_local_views(*mine)
    value = loss.detach().clone()
    dist.all_reduce(value)
    return value / size, [each / size for each in torch.autograd.grad(loss, mine)]


def loss_with_local_views(x: Tensor, y: Tensor, local: Tensor) -> Tensor:
    return MethodLoss(VICReg(), local=True)(x, y, ((x, y),), local).terms["loss"]


@pytest.mark.parametrize(("n", "d"), [(8, 12), (12, 8)])
def test_local_views_are_matched_to_both_global_ones(two_processes: Gloo, n: int, d: int) -> None:
    x, y = embeddings(n, d)
    generator = torch.Generator().manual_seed(5)
    local = x + torch.randn(3, n, d, generator=generator, dtype=torch.float64)
    (value, first), (_, second) = two_processes.run(shares_with_local_views, x, y, local)
    given = [z.requires_grad_() for z in (x, y, local)]
    expected = with_local_views(*given)
    alone = loss_with_local_views(*given)
    torch.testing.assert_close(alone, expected)
    torch.testing.assert_close(value, expected.detach())
    wanted = torch.autograd.grad(expected, given)
    assert all(bool(each.any()) for each in wanted)
    torch.testing.assert_close(torch.autograd.grad(alone, given), wanted)
    for mine, others, gradient in zip(first, second, wanted, strict=True):
        torch.testing.assert_close(torch.cat([mine, others], dim=-2), gradient)


def test_the_terms_of_local_views_are_told_apart() -> None:
    x, y = embeddings(6, 10)
    local = torch.stack([x + 1.0, y + 2.0])
    objective = MethodLoss(VICReg(), local=True)
    terms = objective(x, y, ((x, y),), local).terms
    assert tuple(terms) == objective.terms
    without = MethodLoss(VICReg())(x, y, ((x, y),)).terms
    for name in ("invariance", "variance", "covariance"):
        assert torch.equal(terms[name], without[name])  # comparable with runs without local views
    near = [invariance(g, v) for g in (x, y) for v in local]
    torch.testing.assert_close(terms["local_invariance"], torch.stack(near).mean())


def test_local_views_pass_the_network_as_one_batch() -> None:
    views = {"local": 3, "local_size": 8}
    spec = spec_for("vicreg", augmentation={"views": views})
    network = JointEmbedding(spec)
    pair, local = torch.randn(2, 4, 3, 16, 16), torch.randn(3, 4, 3, 8, 8)
    found = network(*pair, *local)
    assert int(network.get_buffer("backbone.bn1.num_batches_tracked")) == 3
    assert found.local.shape == (3, 4, 12)
    torch.testing.assert_close(found.local.flatten(0, 1), network.embed(local.flatten(0, 1)))
    without = network(*pair)
    assert without.local is None
    assert torch.equal(found.first, without.first)
    assert torch.equal(found.second, without.second)


@pytest.mark.parametrize("method", METHODS[1:])
def test_variance_and_covariance_can_be_added_to_every_method(method: str) -> None:
    x, y = embeddings(8, 12)
    added = spec_for(method, method={"name": method, "variance": 2.0, "covariance": 0.5})
    pairs = (x, y, ((x, y),))
    bare = MethodLoss(spec_for(method).method)(*pairs).terms["loss"]
    total = MethodLoss(added.method)(*pairs).terms["loss"]
    terms = (variance(x) + variance(y)) * 2.0 / 2 + (covariance(x) + covariance(y)) * 0.5
    torch.testing.assert_close(total - bare, terms)


def test_the_spread_on_the_sphere_does_not_depend_on_the_scale() -> None:
    x, y = embeddings(64, 12)
    for method, unchanged in (("simsiam", True), ("vicreg", False)):
        objective = MethodLoss(spec_for(method).method)
        small, large = (objective(z * x, y, ((x, y),)).std.mean() for z in (0.01, 1.0))
        assert (float(small) == pytest.approx(float(large), rel=1e-3)) is unchanged


def gradients_of(spec: PretrainSpec) -> dict[str, bool]:
    """Which parts of the network a step's gradient reaches."""
    torch.manual_seed(0)
    network = JointEmbedding(spec)
    views = torch.randn(2, 8, 3, 8, 8)
    loss = MethodLoss(spec.method)(*network(*views)).terms["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    parts = {"backbone": network.backbone, "second": network.second, "predictor": network.predictor}
    return {
        name: part is not None
        and any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())
        for name, part in parts.items()
    }


@pytest.mark.parametrize(
    ("method", "branches", "reached"),
    [
        ("vicreg", {}, ["backbone"]),
        ("vicreg", {"weights": "separate"}, ["backbone", "second"]),
        ("vicreg", {"predictor": {"layers": [8]}}, ["backbone", "predictor"]),
        ("vicreg", {"weights": "momentum"}, ["backbone"]),
        ("vicreg", {"stop_gradient": True}, ["backbone"]),
        ("barlow_twins", {"weights": "separate"}, ["backbone", "second"]),
        ("simclr", {}, ["backbone"]),
        ("byol", {}, ["backbone", "predictor"]),
        ("byol", {"predictor": None}, ["backbone"]),
        ("simsiam", {}, ["backbone", "predictor"]),
    ],
)
def test_the_gradient_reaches_what_is_to_learn(
    method: str, branches: dict[str, Any], reached: list[str]
) -> None:
    found = gradients_of(spec_for(method, branches=branches))
    assert [name for name, here in found.items() if here] == reached


def test_branches_can_have_different_backbones() -> None:
    second = {"name": "vit_s", "patch_size": 4}
    spec = spec_for("vicreg", branches={"weights": "separate", "backbone": second})
    network = JointEmbedding(spec)
    first, other, *_ = network(*torch.randn(2, 4, 3, 8, 8))
    assert first.shape == other.shape == (4, 12)


def test_the_moving_branch_follows_the_first() -> None:
    spec = spec_for("byol")
    network = JointEmbedding(spec)
    moving, followed = network.momentum_pairs()
    assert len(moving) == len(followed) > 0
    assert all(torch.equal(a, b) and a is not b for a, b in zip(moving, followed, strict=True))
    assert not any(parameter.requires_grad for parameter in moving)
    assert (momentum_at(0, 10, 0.99), momentum_at(10, 10, 0.99)) == (0.99, 1.0)
    assert momentum_at(5, 10, 0.9) == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("normalization", "check"),
    [
        ("standardize", lambda z: z.std(dim=0, correction=0)),
        ("l2", lambda z: z.norm(dim=1)),
    ],
)
def test_embeddings_are_normalised_as_asked(normalization: str, check: Any) -> None:
    expander = {"layers": [16, 12], "normalization": normalization, "batchnorm": False}
    network = JointEmbedding(spec_for("vicreg", expander=expander))
    assert not any("BatchNorm" in type(m).__name__ for m in network.expander[:-1])
    z = network.embed(torch.randn(8, 3, 8, 8))
    torch.testing.assert_close(check(z), torch.ones_like(check(z)), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"branches": {"weights": "separate", "stop_gradient": True}}, "branches.stop_gradient"),
        ({"branches": {"backbone": {"name": "resnet18"}}}, "branches.backbone"),
        ({"backbone": {"name": "vit_s", "stem": "cifar", "patch_size": 4}}, "backbone.stem"),
        ({"backbone": {"name": "vit_s", "patch_size": 5}}, "backbone.patch_size"),
        (
            {"backbone": {"name": "resnet18", "patch_size": 4, "stem": "cifar"}},
            "backbone.patch_size",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        spec_for("vicreg", **changes)
    assert [fault.field for fault in refused.value.faults] == [field]


@pytest.mark.parametrize("method", ["vicreg", "simsiam"])
@pytest.mark.parametrize("normalization", ["none", "standardize", "l2"])
def test_the_spread_tells_a_collapse_whatever_the_normalisation(
    method: str, normalization: str
) -> None:
    torch.manual_seed(0)
    objective = MethodLoss(spec_for(method).method, normalization)
    alive, point = torch.randn(64, 2048), torch.randn(1, 2048) + 1e-5 * torch.randn(64, 2048)

    def spread(embeddings: torch.Tensor) -> float:
        if normalization == "standardize":
            embeddings = torch.nn.functional.batch_norm(embeddings, None, None, training=True)
        elif normalization == "l2":
            embeddings = torch.nn.functional.normalize(embeddings)
        pairs = (embeddings, embeddings, ((embeddings, embeddings),))
        return float(objective(*pairs).std.mean())

    assert spread(alive) == pytest.approx(1.0, abs=0.05)
    assert spread(point) < 0.01
