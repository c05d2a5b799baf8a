"""Encoders are published and loaded, and nothing but weights is loaded."""

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load, save_file
from torch import nn

from vicreg_platform.specs import (
    Backbone,
    JobEncoder,
    PathEncoder,
    PretrainSpec,
    UntrainedEncoder,
    parse_spec,
)
from vicreg_workers.encoder import Published, encoder_files, load_encoder
from vicreg_workers.export import export_encoder
from vicreg_workers.failures import UserFailure
from vicreg_workers.selfsup.model.backbones import backbone_state, build_backbone
from vicreg_workers.selfsup.model.match import match_weights
from vicreg_workers.weights import DESCRIPTION, WEIGHTS, kept_encoder

RESNET18 = Backbone(name="resnet18")


def from_path(root: Path, name: str, backbone: Backbone = RESNET18) -> nn.Module:
    encoder = PathEncoder(path=name, backbone=backbone)
    return load_encoder(encoder, 32, None, "http://nowhere", root)[0]


def test_the_weights_fit_torchvisions_network() -> None:
    spec = parse_spec({"kind": "pretrain", "data": {"source": "digits"}})
    assert isinstance(spec, PretrainSpec)
    weights = load(encoder_files(build_backbone(spec.backbone, 32), spec, 4)[WEIGHTS])
    network = torchvision.models.resnet18()
    missing, unexpected = network.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["fc.weight", "fc.bias"], [])


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_weights_are_read_from_a_file(tmp_path: Path, name: str) -> None:
    state = backbone_state(build_backbone(RESNET18, 32))
    if name.endswith("pth"):
        torch.save(state, tmp_path / name)
    else:
        save_file(state, tmp_path / name)
    loaded = from_path(tmp_path, name).state_dict()
    assert all(torch.equal(state[key], loaded[key]) for key in state)


def test_a_torchvision_checkpoint_loses_its_classifier(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "w.pth")
    assert from_path(tmp_path, "w.pth")(torch.zeros(1, 3, 64, 64)).shape == (1, 512)


def authors_resnet50() -> dict[str, torch.Tensor]:
    """The layout of the published ``resnet50.pth``: torchvision's names without a classifier."""
    network = torchvision.models.resnet50()
    return {name: value for name, value in network.state_dict().items() if "fc." not in name}


@pytest.mark.parametrize("form", ["backbone only", "full checkpoint"])
def test_the_authors_published_checkpoints_are_read(tmp_path: Path, form: str) -> None:
    weights = authors_resnet50()
    if form == "full checkpoint":
        # main_vicreg.py saves {epoch, model, optimizer}; the model is wrapped by DDP.
        content: dict[str, object] = {
            "epoch": 1000,
            "model": {f"module.backbone.{name}": value for name, value in weights.items()}
            | {"module.projector.0.weight": torch.zeros(4, 2048)},
            "optimizer": {"state": {}, "param_groups": []},
        }
    else:
        content = dict(weights)
    torch.save(content, tmp_path / "resnet50.pth")
    loaded = from_path(tmp_path, "resnet50.pth", Backbone(name="resnet50")).state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(weights[name], loaded[name]) for name in weights)


@pytest.mark.parametrize("name", ["wide_resnet50_2", "vit_b_16"])
def test_torchvisions_other_models_fit(name: str) -> None:
    backbone = Backbone.model_validate({"name": name.removesuffix("_16")})
    with torch.device("meta"):  # half a gigabyte of weights each, and only their names matter
        theirs = getattr(torchvision.models, name)().state_dict()
        match = match_weights(theirs, build_backbone(backbone, 224))
    assert (match.misfits, match.share) == ((), 1.0)


SMALL_VIT = Backbone(name="vit_s", patch_size=8)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
@pytest.mark.parametrize("spec", [Backbone(name="resnet10", stem="cifar"), SMALL_VIT])
def test_an_exported_encoder_computes_the_same(tmp_path: Path, spec: Backbone, suffix: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(spec, 16).eval()
    file = tmp_path / f"encoder{suffix}"
    assert export_encoder(Published(backbone, spec, 16), file) < 1e-4
    assert file.stat().st_size > 1_000_000


def test_an_unknown_format_is_a_user_failure(tmp_path: Path) -> None:
    published = Published(build_backbone(RESNET18, 32).eval(), RESNET18, 32)
    with pytest.raises(UserFailure, match="suffix must be one of"):
        export_encoder(published, tmp_path / "encoder.h5")


class Harmful:
    """An attacker's checkpoint: loading it makes a call."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.touched,)


def test_a_checkpoint_that_is_more_than_weights_is_refused_unread(tmp_path: Path) -> None:
    torch.save({"conv1.weight": Harmful(tmp_path / "touched")}, tmp_path / "w.pth")
    with pytest.raises(UserFailure, match="more than weights"):
        from_path(tmp_path, "w.pth")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_file_without_weights_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"text")
    with pytest.raises(UserFailure, match=name):
        from_path(tmp_path, name)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(backbone_state(build_backbone(Backbone(name="resnet34"), 32)), tmp_path / "w.pth")
    with pytest.raises(UserFailure, match="do not fit resnet18"):
        from_path(tmp_path, "w.pth")


def test_a_path_cannot_leave_the_data_root(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(UserFailure, match="outside the data root"):
        from_path(tmp_path, "link/hostname")


def test_an_untrained_encoder_is_the_same_for_a_seed() -> None:
    def weights(seed: int) -> torch.Tensor:
        encoder = UntrainedEncoder(untrained=RESNET18, seed=seed)
        return load_encoder(encoder, 32, None, "", Path())[0].get_parameter("conv1.weight")

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_an_encoder_kept_while_training_is_read_from_the_storage(tmp_path: Path) -> None:
    spec = parse_spec({"kind": "pretrain", "data": {"source": "digits"}})
    assert isinstance(spec, PretrainSpec)
    kept = build_backbone(spec.backbone, 32)
    for name, content in encoder_files(kept, spec, 70).items():
        kept_encoder(str(tmp_path), "job", 10).write(name, content)

    def loaded(epoch: int) -> tuple[nn.Module, int | None]:
        encoder = JobEncoder(job="job", epoch=epoch)
        return load_encoder(encoder, 32, None, "http://nowhere", tmp_path, str(tmp_path))

    backbone, step = loaded(10)
    assert step == 70
    assert torch.equal(backbone.state_dict()["conv1.weight"], kept.state_dict()["conv1.weight"])
    with pytest.raises(UserFailure, match=r"there is no encoder in .*epoch-00020"):
        loaded(20)
    for name, content, said in (
        (DESCRIPTION, b"{}", "of .*epoch-00010 describes no encoder: KeyError: 'backbone'"),
        (DESCRIPTION, b'{"backbone": {"name": "none"}, "image_size": 8}', "describes no encoder"),
        (DESCRIPTION, b"{", "the encoder in .*epoch-00010 is damaged"),
        (WEIGHTS, b"cut off", "the encoder in .*epoch-00010 is damaged"),
    ):
        kept_encoder(str(tmp_path), "job", 10).write(name, content)
        with pytest.raises(UserFailure, match=said) as failure:
            loaded(10)
        assert "\n" not in str(failure.value)
