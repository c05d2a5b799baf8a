"""A few images of each class are drawn, the same for a seed, and their accuracy is measured."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vicreg_platform.specs import FewShotProtocol
from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.selfsup.evaluation.few_shot import few_shot_metrics

CLASSES = ("a", "b", "c", "d")


def clusters(noise: float, count: int = 20) -> tuple[Tensor, Tensor]:
    """Images of each class around a direction of its own."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(len(CLASSES)).repeat(count)
    centres = torch.eye(len(CLASSES), 16)[labels]
    return centres + noise * torch.randn(len(labels), 16, generator=generator), labels


def measured(noise: float, **changes: object) -> dict[str, float]:
    features, labels = clusters(noise)
    protocol = FewShotProtocol.model_validate({"name": "few_shot"} | changes)
    return few_shot_metrics(
        features[40:], labels[40:], features[:40], labels[:40], protocol, CLASSES
    )


def test_classes_that_lie_apart_need_one_image() -> None:
    assert measured(0.01, shots=[1, 4]) == {
        "1/top1": 1.0, "1/top1_std": 0.0, "4/top1": 1.0, "4/top1_std": 0.0,
    }  # fmt: skip


def test_more_images_are_better_and_noise_is_chance() -> None:
    found = measured(0.35, shots=[1, 8], draws=10)
    assert 0.25 < found["1/top1"] < found["8/top1"] < 1
    assert 0 < found["1/top1_std"] < 0.2
    assert measured(100.0, shots=[1], draws=20)["1/top1"] == pytest.approx(0.25, abs=0.08)


def test_a_seed_draws_the_same_images_and_another_one_others() -> None:
    assert measured(0.35, shots=[2]) == measured(0.35, shots=[2])
    assert measured(0.35, shots=[2], seed=1) != measured(0.35, shots=[2])
    # Those of a smaller number do not change with the larger ones.
    assert measured(0.35, shots=[2, 4])["2/top1"] == measured(0.35, shots=[2])["2/top1"]
    assert measured(0.35, shots=[2], draws=1)["2/top1_std"] == 0.0


def test_a_class_with_too_few_images_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"class a has 10 images, and .* asks for 16"):
        measured(0.1)
