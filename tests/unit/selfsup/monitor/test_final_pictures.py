"""Neighbours and the map of a training's end are those of its representations."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest
import torch

from vicreg_platform.specs import DigitsData
from vicreg_workers.selfsup.data.decoding import AnyPicture
from vicreg_workers.selfsup.data.sources import Digits, Subset
from vicreg_workers.selfsup.monitor import final_pictures, plots
from vicreg_workers.selfsup.monitor.final_pictures import embedding_map, neighbours_of

DIGITS = Digits(DigitsData(source="digits"))
PNG = b"\x89PNG"


def test_each_image_is_followed_by_its_nearest() -> None:
    few = Subset(DIGITS, range(40))
    # Images 0 and 1 point alike, and so on.
    z = torch.eye(20).repeat_interleave(2, dim=0) + 0.01 * torch.arange(40.0)[:, None]
    found = neighbours_of(z, range(40), few, 8)
    assert found.views.shape == (8, 8, 3, 8, 8)
    assert found.same_class is not None
    partner = found.views[::2, 1]
    assert torch.equal(partner, found.views[1::2, 0])
    labels = few.labels
    assert found.same_class[:, 0].tolist() == [labels[i] == labels[i ^ 1] for i in range(8)]
    assert plots.neighbours(found).startswith(PNG)


class Gone(Subset):
    """Images that cannot be read any more."""

    def open(self, index: int) -> AnyPicture:
        raise OSError


def test_images_that_are_gone_are_black() -> None:
    gone = Gone(DIGITS, range(5))
    gone.classes = []
    found = neighbours_of(torch.eye(5), range(5), gone, 8)
    assert found.views.shape == (4, 5, 3, 8, 8)
    assert not found.views.any()
    assert found.same_class is None
    assert plots.neighbours(found).startswith(PNG)


def test_without_umap_the_map_is_that_of_two_principal_components(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(final_pictures, "find_spec", lambda name: None)
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(300, 2, generator=generator) * torch.tensor([9.0, 3.0])
    basis, _ = torch.linalg.qr(torch.randn(16, 2, generator=generator))
    placed = embedding_map(scores @ basis.T + 5)
    assert placed.method == "PCA"
    for column in range(2):
        together = torch.corrcoef(torch.stack([placed.points[:, column], scores[:, column]]))
        assert abs(float(together[0, 1])) > 0.98
    for classes in ([], ["a", "b"], [str(n) for n in range(30)]):
        labels = [n % max(1, len(classes)) for n in range(300)]
        assert plots.embedding_map(placed, labels, classes).startswith(PNG)


def test_with_umap_the_map_keeps_neighbours_together() -> None:
    pytest.importorskip("umap", reason="umap-learn is not installed")
    generator = torch.Generator().manual_seed(0)
    group = torch.arange(300) % 3
    z = 5 * torch.eye(3, 16)[group] + torch.randn(300, 16, generator=generator)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        placed, again = embedding_map(z), embedding_map(z)
    assert (placed.method, placed.problem) == ("UMAP", None)
    assert torch.equal(placed.points, again.points)
    distances = torch.cdist(placed.points, placed.points).fill_diagonal_(torch.inf)
    assert (group[distances.argmin(dim=1)] == group).float().mean() > 0.98


def test_a_umap_that_fails_is_replaced_and_said_to_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As umap-learn does where its compiled code can be kept nowhere."""
    text = "cannot cache function 'rdist': no locator available for file '/umap/layouts.py'"
    (tmp_path / "umap.py").write_text(f"raise RuntimeError({text!r})")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "umap", raising=False)
    placed = embedding_map(torch.randn(40, 4, generator=torch.Generator().manual_seed(0)))
    assert placed.method == "PCA"
    assert placed.problem == (
        f"UMAP, which is installed, fails: RuntimeError: {text}; "
        "set NUMBA_CACHE_DIR to a folder that the workers can write to"
    )


def test_a_spectrum_is_drawn_with_and_without_its_line() -> None:
    eigenvalues = torch.arange(1, 200).double() ** -1.0
    for line in (None, (-1.0, 0.0)):
        assert plots.spectrum(eigenvalues, line, 3).startswith(PNG)
    assert plots.spectrum(torch.zeros(4).double(), None, 1).startswith(PNG)
