"""The weights that a training starts from are read from files and from local caches alone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from pydantic import TypeAdapter
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import resnet18

from vicreg_platform.specs import Backbone
from vicreg_platform.specs.init import Init
from vicreg_workers.failures import UserFailure
from vicreg_workers.selfsup.model.backbones import build_backbone
from vicreg_workers.weights import load_initial_weights

RESNET18 = Backbone(name="resnet18")
_INIT: TypeAdapter[Any] = TypeAdapter(Init)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return dict(resnet18().state_dict())


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("VICREG_ALLOW_DOWNLOADS", raising=False)


def started(root: Path, init: dict[str, Any], spec: Backbone = RESNET18) -> nn.Module:
    backbone = build_backbone(spec, 32)
    load_initial_weights(
        backbone,
        _INIT.validate_python(init),
        spec,
        job_run_id=None,
        tracking_uri="http://nowhere",
        data_root=root,
    )
    return backbone


def assert_started(backbone: nn.Module, weights: dict[str, Tensor]) -> None:
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, weights[name])


def in_hub(root: Path, repository: str, weights: dict[str, Tensor]) -> None:
    """What ``huggingface-cli download`` leaves."""
    folder = root / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("0" * 40)
    save_file(weights, snapshot / "model.safetensors")


def test_from_a_file(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    torch.save({"teacher": {f"backbone.{n}": w for n, w in weights.items()}}, tmp_path / "d.pth")
    assert_started(started(tmp_path, {"path": "d.pth"}), weights)


def test_from_torchs_hub_folder(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    name = {"torchvision": "ResNet18_Weights.IMAGENET1K_V1"}
    with pytest.raises(UserFailure, match=r"put https://.*resnet18-f37072fd.pth into .*torch"):
        started(tmp_path, name)
    folder = tmp_path / "torch/hub/checkpoints"
    folder.mkdir(parents=True)
    torch.save(weights, folder / "resnet18-f37072fd.pth")
    assert_started(started(tmp_path, name), weights)
    with pytest.raises(UserFailure, match=r"init.torchvision: .* knows no ResNet18_Weights.NONE"):
        started(tmp_path, {"torchvision": "ResNet18_Weights.NONE"})


def test_from_hugging_faces_cache(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    with pytest.raises(UserFailure, match=r"init.huggingface: me/mine is not .*hub.*DOWNLOADS=1"):
        started(tmp_path, {"huggingface": "me/mine"})
    in_hub(tmp_path, "me/mine", weights)
    assert_started(started(tmp_path, {"huggingface": "me/mine"}), weights)


def test_weights_of_timm_are_found_by_their_name(tmp_path: Path) -> None:
    spec = Backbone(name="timm/convnext_atto")
    init = {"timm": "convnext_atto.d2_in1k"}
    with pytest.raises(UserFailure, match=r"init.timm: timm/convnext_atto.d2_in1k is not on this"):
        started(tmp_path, init, spec)
    torch.manual_seed(2)
    published = timm.create_model("convnext_atto").state_dict()
    in_hub(tmp_path, "timm/convnext_atto.d2_in1k", published)
    assert_started(started(tmp_path, init, spec), published)
    with pytest.raises(UserFailure, match=r"knows no weights convnext_atto.none"):
        started(tmp_path, {"timm": "convnext_atto.none"}, spec)


def test_what_does_not_fit_is_refused_or_left_out(
    tmp_path: Path, weights: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(weights, tmp_path / "w.pth")
    cifar = Backbone(name="resnet18", stem="cifar")
    with pytest.raises(
        UserFailure, match=r"resnet18 with the cifar stem: conv1.weight is \[64, 3, 7, 7\] there"
    ):
        started(tmp_path, {"path": "w.pth"}, cifar)
    caplog.set_level(logging.INFO)
    backbone = started(tmp_path, {"path": "w.pth", "strict": False}, cifar)
    assert torch.equal(
        backbone.state_dict()["layer1.0.conv1.weight"], weights["layer1.0.conv1.weight"]
    )
    assert "99.98 % of resnet18 with the cifar stem is from" in caplog.text
    with pytest.raises(UserFailure, match=r"only [0-9.]+% .* 90% are needed"):
        started(tmp_path, {"path": "w.pth", "strict": False}, Backbone(name="resnet34"))


def test_a_path_cannot_leave_the_data_root(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(UserFailure, match=r"init.path: .*outside the data root"):
        started(tmp_path, {"path": "link/hostname"})


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "w.pth")
    with pytest.raises(UserFailure, match="no weights by name, but a Tensor"):
        started(tmp_path, {"path": "w.pth"})
