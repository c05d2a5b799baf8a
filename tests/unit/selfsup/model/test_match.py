"""A backbone's weights are found in files of any published form; what does not fit is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18, resnet34

from vicreg_platform.specs import Backbone
from vicreg_workers.selfsup.model.backbones import build_backbone
from vicreg_workers.selfsup.model.match import match_weights

RESNET18 = Backbone(name="resnet18")


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    return build_backbone(RESNET18, 32)


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return dict(resnet18().state_dict())


def prefixed(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in weights.items()}


def forms(weights: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    other = {name: torch.zeros_like(value) for name, value in weights.items()}
    head = {"head.mlp.0.weight": torch.zeros(4, 512)}
    return {
        "torchvision": dict(weights),
        # main_vicreg.py: {epoch, model, optimizer}.
        "vicreg": {
            "epoch": 1,
            "model": prefixed(weights, "module.backbone.")
            | {"module.projector.0.weight": torch.zeros(4, 512)},
            "optimizer": {"state": {}, "param_groups": []},
        },
        # main_dino.py: the student comes first, and the teacher is what is evaluated.
        "dino": {
            "student": prefixed(other, "module.backbone.") | prefixed(head, "module."),
            "teacher": prefixed(weights, "backbone.") | head,
        },
        "solo-learn": {"state_dict": prefixed(weights, "backbone."), "epoch": 3},
        # main_moco.py: the momentum encoder comes second.
        "moco": {
            "arch": "resnet18",
            "state_dict": prefixed(weights, "module.encoder_q.")
            | prefixed(other, "module.encoder_k.m."),
        },
        # A checkpoint of this platform with a second branch.
        "own": {
            "network": prefixed(other, "second.backbone.") | prefixed(weights, "backbone."),
            "step": 4,
        },
    }


@pytest.mark.parametrize("form", ["torchvision", "vicreg", "dino", "solo-learn", "moco", "own"])
def test_weights_are_found_wherever_they_are(
    form: str, backbone: nn.Module, published: dict[str, Tensor]
) -> None:
    match = match_weights(forms(published)[form], backbone)
    assert (match.misfits, match.share) == ((), 1.0)
    for name, value in backbone.state_dict().items():
        assert match.state[name].shape == value.shape
        assert torch.equal(match.state[name], published[name])


def test_what_does_not_fit_is_named_with_its_shape(
    published: dict[str, Tensor],
) -> None:
    cifar = build_backbone(Backbone(name="resnet18", stem="cifar"), 32)
    match = match_weights(published, cifar)
    assert match.misfits == ("conv1.weight is [64, 3, 7, 7] there and [64, 3, 3, 3] here",)
    assert 0.99 < match.share < 1
    del published["bn1.weight"]
    match = match_weights(published, cifar)
    assert match.misfits[1] == "bn1.weight [64] is missing"


def test_the_weights_of_a_larger_network_do_not_fit(backbone: nn.Module) -> None:
    match = match_weights(dict(resnet34().state_dict()), backbone)
    assert "layer1.2.conv1.weight [64, 64, 3, 3] has no place here" in match.misfits
    assert match.described().endswith(f"and {len(match.misfits) - 5} more")
    # Its classifier is no part of a backbone.
    assert not any("fc." in misfit for misfit in match.misfits)


def test_a_file_of_something_else_has_nothing(backbone: nn.Module) -> None:
    match = match_weights({"a": 1, "b": {"c": torch.zeros(3)}}, backbone)
    assert (match.state, match.share) == ({}, 0.0)
    assert len(match.misfits) == sum(
        "num_batches_tracked" not in name for name in backbone.state_dict()
    )
