"""LiDAR's views are the training's kind of views, always the same ones."""

from __future__ import annotations

import torch

from tests.benchmarks.health import WEAKEST
from tests.unit.selfsup.test_train import spec_for
from vicreg_platform.specs import DigitsData
from vicreg_workers.selfsup.data.sources import Digits, Subset
from vicreg_workers.selfsup.data.transforms import PlainView, normalised
from vicreg_workers.selfsup.monitor.fixed_views import FixedViews

CPU = torch.device("cpu")
FEW = Subset(Digits(DigitsData(source="digits")), range(20))


def test_views_are_the_same_each_time_and_leave_the_random_state_alone() -> None:
    views = FixedViews(FEW, spec_for(1).augmentation, 8, CPU)
    before = torch.get_rng_state()
    first, again = (torch.stack(list(views.pairs(3))) for _ in range(2))
    assert first.shape == (6, 20, 3, 8, 8)
    assert torch.equal(first, again)
    assert torch.equal(before, torch.get_rng_state())
    assert len({each.sum().item() for each in first}) == 6


def test_views_are_those_of_the_augmentation() -> None:
    spec = spec_for(1, augmentation=WEAKEST).augmentation
    plain = torch.stack([PlainView(8)(FEW.read(index)) for index in range(20)])
    for each in FixedViews(FEW, spec, 8, CPU).pairs(1):
        torch.testing.assert_close(each, normalised(plain, CPU), atol=0.03, rtol=0)
