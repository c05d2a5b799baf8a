"""A job's encoder is exported and uploaded by the command line, with a card of the job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch

from tests.integration.test_api import Platform, platform  # noqa: F401
from tests.integration.test_registration import KNN, ended
from tests.unit.workers.hub import TOKEN, hub_in_memory
from vicreg_platform.cli.commands import main
from vicreg_platform.specs import PretrainSpec, parse_spec
from vicreg_workers.encoder import encoder_files
from vicreg_workers.selfsup.model.backbones import build_backbone

Run = Callable[..., int]


@pytest.fixture
def vicreg(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Run:  # noqa: F811
    """Runs a command, and answers its exit code."""

    def run(*arguments: str) -> int:
        addresses = ("--api", str(platform.http.base_url), "--mlflow", platform.tracking._url)
        monkeypatch.setattr("sys.argv", ["vicreg", *arguments, *addresses])
        with pytest.raises(SystemExit) as ending:
            main()
        assert isinstance(ending.value.code, int)
        return ending.value.code

    return run


def test_a_job_becomes_a_folder_and_a_repository(
    platform: Platform,  # noqa: F811
    vicreg: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    job = platform.submit(name="first", backbone={"name": "resnet10"}, **KNN)
    run = ended(platform, job, {"train/loss": 12.0})
    spec = parse_spec(platform.http.get(f"/v1/jobs/{job}").json()["spec"])
    assert isinstance(spec, PretrainSpec)
    backbone = build_backbone(spec.backbone, 32)
    for name, content in encoder_files(backbone, spec, 4).items():
        (tmp_path / name).write_bytes(content)
        platform.tracking._client.log_artifact(run, str(tmp_path / name), "encoder")
    (evaluation,) = platform.http.get("/v1/jobs", params={"parent": job}).json()["items"]
    ended(platform, evaluation["id"], {"knn/top1": 0.7})

    folder = tmp_path / "folder"
    assert vicreg("export", job, str(folder), "--format", "timm", "--license", "mit") == 0
    assert "resnet10 for images of 32 pixels" in capfd.readouterr().out
    network = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert torch.equal(
        network.get_parameter("conv1.weight"), backbone.get_parameter("conv1.weight")
    )
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n")
    assert "| knn/top1 | 0.7 | knn (k 200, temperature 0.07) | digits, test |" in card
    assert (folder / "loss.png").exists()

    assert vicreg("export", job, str(folder), "--format", "timm") == 1
    assert "is not empty: name a new folder" in " ".join(capfd.readouterr().err.split())
    assert vicreg("export", "models:/m/1", str(tmp_path / "f"), "--format", "timm") == 1
    assert "name the job instead" in " ".join(capfd.readouterr().err.split())

    with hub_in_memory() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert vicreg("push", job, "me/first", "--private") == 0
        assert capfd.readouterr().out == f"{hub.url}/me/first\n"
        assert {"config.json", "model.safetensors"} <= hub.repositories["me/first"].files.keys()
        assert hub.repositories["me/first"].private
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        assert vicreg("push", job, "me/first") == 1
        assert "does not know the token" in " ".join(capfd.readouterr().err.split())
