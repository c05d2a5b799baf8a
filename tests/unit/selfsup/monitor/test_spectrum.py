"""Spectra whose ranks and decay are known are measured as such."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vicreg_workers.selfsup.monitor.representation import _representation_metrics
from vicreg_workers.selfsup.monitor.spectrum import (
    alpha_req,
    covariance_eigenvalues,
    lidar,
    nesum,
    rankme,
)


def alpha_of(z: Tensor) -> float | None:
    return alpha_req(covariance_eigenvalues(z), len(z))


def test_rankme_counts_the_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(64, 4, generator=generator))
    assert rankme(basis) == pytest.approx(4.0, rel=1e-3)
    assert rankme(basis[:, :1].repeat(1, 8)) == pytest.approx(1.0, rel=1e-3)


def power_law(samples: int, dimensions: int, alpha: float) -> Tensor:
    """A normal sample whose covariance has the eigenvalues i^(-α), rotated at random."""
    generator = torch.Generator().manual_seed(dimensions)
    eigenvalues = torch.arange(1, dimensions + 1) ** -alpha
    z = torch.randn(samples, dimensions, generator=generator) * eigenvalues.sqrt()
    rotation, _ = torch.linalg.qr(torch.randn(dimensions, dimensions, generator=generator))
    rotated: Tensor = z @ rotation
    return rotated


@pytest.mark.parametrize(
    ("samples", "dimensions", "alpha"),
    [
        (2000, 64, 0.5), (2000, 64, 1.0), (2000, 64, 1.5),
        (4000, 512, 0.5), (2000, 512, 1.0), (2000, 512, 1.5),
        (2500, 2048, 1.0), (2000, 2048, 1.5),
    ],
)  # fmt: skip
def test_alpha_req_is_that_of_the_power_law(samples: int, dimensions: int, alpha: float) -> None:
    assert alpha_of(power_law(samples, dimensions, alpha)) == pytest.approx(alpha, abs=0.05)


def test_alpha_req_is_that_of_an_exact_spectrum() -> None:
    basis, _ = torch.linalg.qr(torch.randn(1200, 20, dtype=torch.double))
    basis, _ = torch.linalg.qr(basis - basis.mean(dim=0))
    for alpha in (0.0, 1.0, 2.5):
        eigenvalues = torch.arange(1, 21).double() ** -alpha
        assert alpha_of(basis * eigenvalues.sqrt()) == pytest.approx(alpha, abs=1e-6)


@pytest.mark.parametrize(
    ("samples", "dimensions", "alpha"), [(2000, 2048, 0.5), (1000, 512, 0.5), (900, 64, 1.0)]
)
def test_alpha_req_of_too_few_samples_is_none(samples: int, dimensions: int, alpha: float) -> None:
    assert alpha_of(power_law(samples, dimensions, alpha)) is None


def test_a_representation_is_described_with_alpha_req_if_there_are_images_enough() -> None:
    names = {"std_mean", "std_min", "covariance", "rankme", "nesum"}
    for samples, all_names in ((900, names), (2000, names | {"alpha_req"})):
        z = power_law(samples, 64, 1.0)
        assert _representation_metrics(z, covariance_eigenvalues(z)).keys() == all_names


def test_nesum_counts_dimensions_as_large_as_the_largest() -> None:
    assert nesum(torch.ones(512)) == 512
    assert nesum(torch.tensor([3.0] + [0.0] * 511)) == 1
    assert nesum(torch.tensor([4.0, 2.0, 1.0, 1.0])) == 2
    assert nesum(torch.zeros(8)) == 0
    for alpha in (0.5, 1.0, 1.5):
        expected = (np.arange(1, 65.0) ** -alpha).sum()
        found = nesum(covariance_eigenvalues(power_law(20_000, 64, alpha)))
        assert found == pytest.approx(expected, rel=0.05)


def test_ranks_equal_their_definitions() -> None:
    """Written once more, with numpy, by the decompositions of the papers' formulas."""
    z = power_law(300, 40, 1.0)
    values = np.linalg.svd(z.double().numpy(), compute_uv=False)
    p = values / values.sum() + 1e-7
    assert rankme(z) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-6)
    eigenvalues = np.linalg.eigvalsh(np.cov(z.double().numpy(), rowvar=False))
    assert nesum(covariance_eigenvalues(z)) == pytest.approx(
        eigenvalues.sum() / eigenvalues.max(), rel=1e-6
    )
    views = z[:, None] + 0.3 * torch.randn(300, 6, 40, generator=torch.Generator().manual_seed(1))
    e = views.double().numpy()
    means = e.mean(axis=1)
    between = np.cov(means, rowvar=False)
    within = sum(np.cov(each, rowvar=False) for each in e) / 300 + 1e-4 * np.eye(40)
    vectors_of = np.linalg.eigh(within)
    root = vectors_of[1] @ np.diag(vectors_of[0] ** -0.5) @ vectors_of[1].T
    values = np.linalg.eigvalsh(root @ between @ root)
    p = values / values.sum() + 1e-7
    assert lidar(views) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-6)


def test_lidar_of_separate_isotropic_classes_is_their_number_less_one() -> None:
    generator = torch.Generator().manual_seed(0)
    simplex = torch.eye(12, 30)[:, None].expand(12, 8, 30)
    assert lidar(simplex) == pytest.approx(11, rel=1e-4)
    noisy = 10 * simplex.repeat(1, 25, 1) + 0.1 * torch.randn(12, 200, 30, generator=generator)
    assert lidar(noisy) == pytest.approx(11, rel=0.02)
    line = torch.arange(12.0)[:, None, None] * torch.eye(1, 30) + torch.randn(
        12, 200, 30, generator=generator
    )
    assert lidar(line) == pytest.approx(1, abs=0.3)
    # A direction that augmentation changes as much as images differ in it tells little.
    white = torch.randn(100, 1, 30, generator=generator) + torch.zeros(100, 20, 30)
    stretched = torch.tensor([100.0] * 5 + [1.0] * 25)
    changed = white + stretched * torch.randn(100, 20, 30, generator=generator)
    assert lidar(changed) < lidar(white + torch.randn(100, 20, 30, generator=generator)) - 3


def test_rankme_of_fewer_samples_is_lower() -> None:
    """What the docstring says of the 2,000 images that are measured, and 25,600."""
    few, many = (rankme(power_law(samples, 512, 1.0)) for samples in (2_000, 25_600))
    assert few / many == pytest.approx(0.96, abs=0.01)
