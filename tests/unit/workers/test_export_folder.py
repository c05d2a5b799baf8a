"""An encoder becomes a folder of timm and of the Hugging Face Hub, with a card, and is uploaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml

from tests.unit.workers.hub import TOKEN, Hub, Repository, hub_in_memory
from vicreg_platform.contract.model_facts import Evaluated, FolderFormat, ModelFacts
from vicreg_platform.specs import Backbone, parse_spec
from vicreg_workers.encoder import Published
from vicreg_workers.export import export_folder
from vicreg_workers.failures import InfrastructureFailure, UserFailure
from vicreg_workers.push import push_encoder
from vicreg_workers.selfsup.imagenet import IMAGENET_MEAN, IMAGENET_STD
from vicreg_workers.selfsup.model.backbones import build_backbone

RESNET10 = Backbone(name="resnet10")
SMALL_VIT = Backbone(name="vit_s", patch_size=8)
OF_TIMM = Backbone(name="timm/vit_tiny_patch16_224")
DIGITS = {"kind": "pretrain", "data": {"source": "digits"}}
CIFAR10 = {
    "kind": "pretrain",
    "data": {"source": "torchvision", "dataset": "CIFAR10", "path": "cifar10"},
}


def encoder_of(spec: Backbone, size: int = 32) -> Published:
    torch.manual_seed(0)
    backbone = build_backbone(spec, size).eval()
    for parameter in backbone.parameters():
        if parameter.dim() == 1:  # those that begin at zero would hide a wrong name
            torch.nn.init.normal_(parameter, 1.0, 0.2)
    return Published(backbone, spec, size)


def facts_of(request: dict[str, Any] = DIGITS, **changes: Any) -> ModelFacts:
    known: dict[str, Any] = {
        "job": "j1",
        "name": "first | try",
        "spec": parse_spec(request).model_dump(mode="json"),
        "scores": {"representation/rankme": 12.5},
        "evaluations": [
            Evaluated(
                protocol={"name": "knn", "k": 20},
                data={"test": {"source": "digits", "split": "test"}},
                scores={"knn/top1": 0.912345},
            )
        ],
        "loss": [(0, 30.0), (1, float("nan")), (2, 20.0)],
        "license": "other",
    }
    return ModelFacts(**known | changes)


def images_of(folder: Path, images: torch.Tensor) -> torch.Tensor:
    """Images normalised for the platform, as the folder's network takes them."""
    config = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    ours = (torch.tensor(each).view(1, 3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    mean, std = ours
    theirs = (torch.tensor(config[each]).view(1, 3, 1, 1) for each in ("mean", "std"))
    their_mean, their_std = theirs
    return (images * std + mean - their_mean) / their_std


@pytest.mark.parametrize("form", list(FolderFormat))
@pytest.mark.parametrize("spec", [RESNET10, SMALL_VIT, OF_TIMM], ids=lambda spec: spec.name)
def test_timm_computes_the_same(tmp_path: Path, spec: Backbone, form: FolderFormat) -> None:
    encoder, folder = encoder_of(spec), tmp_path / "a" / "b"
    assert export_folder(encoder, folder, facts_of(), form) < 1e-4
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            network(images_of(folder, images)), encoder.backbone(images), rtol=1e-3, atol=1e-4
        )
    assert network.num_classes == 0
    assert (folder / ".gitattributes").exists() is (form is FolderFormat.HUGGINGFACE)


def test_transformers_computes_the_same(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    encoder, folder = encoder_of(OF_TIMM), tmp_path / "folder"
    export_folder(encoder, folder, facts_of(), FolderFormat.HUGGINGFACE)
    network = transformers.AutoModel.from_pretrained(folder).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            network(images_of(folder, images)).pooler_output,
            encoder.backbone(images),
            rtol=1e-3,
            atol=1e-4,
        )


def test_timm_can_put_a_classifier_on_it(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    export_folder(encoder_of(RESNET10), folder, facts_of(), FolderFormat.TIMM)
    network = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=7)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(
    ("size", "shorter_side"), [(32, 32), (224, 256)], ids=["small images", "ImageNet's"]
)
def test_the_config_has_the_images_of_an_evaluation(
    tmp_path: Path, size: int, shorter_side: int
) -> None:
    folder = tmp_path / "folder"
    export_folder(encoder_of(RESNET10, size), folder, facts_of(), FolderFormat.TIMM)
    network = timm.create_model(f"local-dir:{folder}")
    data: Any = timm.data
    config = data.resolve_model_data_config(network)
    assert (list(config["input_size"]), config["interpolation"]) == ([3, size, size], "bicubic")
    assert (tuple(config["mean"]), tuple(config["std"])) == (IMAGENET_MEAN, IMAGENET_STD)
    assert data.create_transform(**config).transforms[0].size == shorter_side


def test_a_network_of_timm_has_the_normalisation_that_timm_gives_it(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    export_folder(encoder_of(OF_TIMM), folder, facts_of(), FolderFormat.TIMM)
    config = json.loads((folder / "config.json").read_text())
    assert config["model_args"] == {"img_size": 32}
    assert config["pretrained_cfg"]["mean"] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Backbone(name="resnet10", stem="cifar"), "no resnet10 with the cifar stem"),
        (Backbone(name="torchvision/regnet_y_400mf"), "no network that computes what torchvision/"),
    ],
)
def test_what_timm_does_not_have_is_refused(tmp_path: Path, spec: Backbone, message: str) -> None:
    with pytest.raises(UserFailure, match=message):
        export_folder(encoder_of(spec, 64), tmp_path / "f", facts_of(), FolderFormat.TIMM)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    encoder = encoder_of(RESNET10)
    with pytest.raises(UserFailure, match="is not empty"):
        export_folder(encoder, tmp_path, facts_of(), FolderFormat.TIMM)
    with pytest.raises(UserFailure, match=r"notes\.txt cannot be a folder"):
        export_folder(encoder, tmp_path / "notes.txt", facts_of(), FolderFormat.TIMM)


def card_of(tmp_path: Path, facts: ModelFacts) -> tuple[dict[str, Any], str]:
    """The front matter of a card, and its text."""
    export_folder(encoder_of(RESNET10), tmp_path / "folder", facts, FolderFormat.TIMM)
    _, matter, text = (tmp_path / "folder" / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(matter), text


def test_the_card_says_what_the_encoder_is(tmp_path: Path) -> None:
    matter, text = card_of(tmp_path, facts_of())
    assert (matter["license"], matter["library_name"]) == ("other", "timm")
    assert "vicreg" in matter["tags"]
    assert "datasets" not in matter
    assert "pretrained without labels by VICReg" in text
    assert 'timm.create_model("local-dir:folder", pretrained=True)' in text
    assert "| Expander | 2048-2048-2048 |" in text
    assert "| knn/top1 | 0.9123 | knn (k 20) | digits, test |" in text
    assert "| representation/rankme | 12.5 | while training |  |" in text
    assert "set `license` at the top" in text
    assert "2105.04906" in text
    assert "2210.01571" not in text
    recipe = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    assert recipe["optimizer"]["base_lr"] == 0.3
    assert "resources" not in recipe
    assert "![The loss" in text
    assert (tmp_path / "folder" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_card_leaves_out_what_is_not_known(tmp_path: Path) -> None:
    request = CIFAR10 | {"method": {"name": "vicregl"}}
    facts = facts_of(request, scores={}, evaluations=[], loss=[], license="apache-2.0")
    matter, text = card_of(tmp_path, facts)
    assert (matter["license"], matter["datasets"]) == ("apache-2.0", ["uoft-cs/cifar10"])
    assert "Not evaluated yet." in text
    assert "loss.png" not in text
    assert not (tmp_path / "folder" / "loss.png").exists()
    assert "2210.01571" in text


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_in_memory() as hub:
        _point_at(monkeypatch, hub.url)
        yield hub


def _point_at(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    # huggingface_hub reads HF_ENDPOINT when it is imported.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", url, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def test_an_encoder_is_uploaded_in_one_commit(hub: Hub, tmp_path: Path) -> None:
    encoder = encoder_of(RESNET10)
    for _ in range(2):  # the second time, the repository is there
        assert push_encoder(encoder, facts_of(), "me/net", private=True) == f"{hub.url}/me/net"
    repository = hub.repositories["me/net"]
    assert repository.private
    assert set(repository.files) >= {"config.json", "model.safetensors", "README.md", "loss.png"}
    assert set(repository.commits) == {"Encoder of first | try"}
    assert b'timm.create_model("hf-hub:me/net"' in repository.files["README.md"]
    for name, content in repository.files.items():
        (tmp_path / name).write_bytes(content)
    network = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(images), encoder.backbone(images))


def test_a_private_encoder_is_not_put_into_a_public_repository(hub: Hub) -> None:
    hub.repositories["me/net"] = Repository(private=False)
    with pytest.raises(UserFailure, match="exists and is public"):
        push_encoder(encoder_of(RESNET10), facts_of(), "me/net", private=True)
    assert hub.repositories["me/net"].files == {}


def test_an_encoder_that_timm_cannot_hold_leaves_no_repository(hub: Hub) -> None:
    encoder = encoder_of(Backbone(name="resnet10", stem="cifar"))
    with pytest.raises(UserFailure, match="cifar stem"):
        push_encoder(encoder, facts_of(), "me/net", private=False)
    assert hub.repositories == {}


@pytest.mark.parametrize(
    ("status", "failure", "message"),
    [
        (401, UserFailure, "does not know the token"),
        (403, UserFailure, "may not write to me/net"),
        (500, InfrastructureFailure, "refused me/net"),
    ],
)
def test_a_refusal_is_one_sentence(
    hub: Hub, status: int, failure: type[Exception], message: str
) -> None:
    hub.refuses = status
    with pytest.raises(failure, match=message):
        push_encoder(encoder_of(RESNET10), facts_of(), "me/net", private=False)


def test_without_a_token_nothing_is_asked(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserFailure, match="set HF_TOKEN"):
        push_encoder(encoder_of(RESNET10), facts_of(), "me/net", private=False)


def test_what_is_no_name_is_refused(hub: Hub) -> None:
    with pytest.raises(UserFailure, match="is not a repository name"):
        push_encoder(encoder_of(RESNET10), facts_of(), "me/net/1", private=False)


def test_an_unreachable_hub_is_an_infrastructure_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    _point_at(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(InfrastructureFailure, match=r"127\.0\.0\.1:9 is unreachable"):
        push_encoder(encoder_of(RESNET10), facts_of(), "me/net", private=False)
