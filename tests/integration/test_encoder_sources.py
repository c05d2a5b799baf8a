"""An encoder is read back from its run and from the model registry."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from mlflow.tracking import MlflowClient

from tests.integration.conftest import MlflowServer
from vicreg_platform.cli.local import free_ports
from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.contract.timeline import Timeline
from vicreg_platform.specs import JobEncoder, ModelEncoder, PretrainSpec, RunEncoder, parse_spec
from vicreg_platform.specs.evaluate import Encoder
from vicreg_platform.tracking import Tracking
from vicreg_workers.encoder import encoder_files, load_encoder
from vicreg_workers.evaluate.driver import evaluate
from vicreg_workers.failures import InfrastructureFailure, UserFailure
from vicreg_workers.pretrain.worker import train
from vicreg_workers.selfsup.model.backbones import build_backbone
from vicreg_workers.tracking.outbox import Outbox
from vicreg_workers.weights import FOLDER, version_of


@pytest.fixture(scope="module")
def published(mlflow_server: MlflowServer) -> tuple[str, dict[str, torch.Tensor]]:
    """A run with an encoder, and the encoder's weights."""
    spec = parse_spec(
        {"kind": "pretrain", "data": {"source": "digits"}, "backbone": {"name": "resnet10"}}
    )
    assert isinstance(spec, PretrainSpec)
    backbone = build_backbone(spec.backbone, 32)
    run_id, _ = Tracking(mlflow_server.url).ensure_run("enc", "n", "e", {"kind": "pretrain"}, None)
    outbox = Outbox(mlflow_server.url, run_id)
    for name, content in encoder_files(backbone, spec, 4).items():
        outbox.file(f"{FOLDER}/{name}", content)
    outbox.close(60)
    return run_id, backbone.state_dict()


def test_from_its_job_its_run_and_the_registry(
    mlflow_server: MlflowServer, published: tuple[str, dict[str, torch.Tensor]]
) -> None:
    run_id, weights = published
    client = MlflowClient(mlflow_server.url)
    client.create_registered_model("vicreg")
    artifacts = client.get_run(run_id).info.artifact_uri
    client.create_model_version("vicreg", f"{artifacts}/{FOLDER}", run_id)
    encoders: list[tuple[Encoder, str | None]] = [
        (JobEncoder(job="enc"), run_id),
        (RunEncoder(run=run_id), None),
        (ModelEncoder(model="models:/vicreg/1"), None),
    ]
    for encoder, job_run in encoders:
        backbone, step = load_encoder(encoder, 32, job_run, mlflow_server.url, Path())
        assert step == 4
        loaded = backbone.state_dict()
        assert all(torch.equal(weights[name], loaded[name]) for name in weights)


def test_an_alias_is_the_version_that_has_it_when_the_job_runs(
    mlflow_server: MlflowServer, published: tuple[str, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    run_id, _ = published
    client = MlflowClient(mlflow_server.url)
    client.create_registered_model("aliased")
    source = f"{client.get_run(run_id).info.artifact_uri}/{FOLDER}"
    for version in ("1", "2"):
        client.create_model_version("aliased", source, run_id)
        client.set_registered_model_alias("aliased", "candidate", version)
    digits = {"source": "digits", "image_size": 32, "share": 0.05}
    address = {"model": "models:/aliased@candidate"}

    def tagged(job: str, spec: dict[str, Any], act: Callable[[Assignment], None]) -> str | None:
        assignment = Assignment(
            job_id=job,
            attempt=1,
            spec=parse_spec(spec),
            tracking_uri=mlflow_server.url,
            storage=str(tmp_path),
            data_root=str(tmp_path),
        )
        act(assignment)
        run = Tracking(mlflow_server.url).run_of_job(job, "default")
        assert run is not None
        tag: str | None = client.get_run(run[0]).data.tags.get("vicreg.encoder")
        return tag

    evaluation = {
        "kind": "evaluate",
        "encoder": address,
        "protocol": {"name": "knn", "k": 5},
        "data": {"train": digits, "test": digits | {"split": "test"}},
    }
    assert tagged("a", evaluation, lambda each: evaluate(each, Timeline())) == "models:/aliased/2"
    assert version_of("models:/aliased/latest", mlflow_server.url) == "models:/aliased/2"
    client.set_registered_model_alias("aliased", "candidate", "1")
    assert tagged("b", evaluation, lambda each: evaluate(each, Timeline())) == "models:/aliased/1"
    training = {
        "kind": "pretrain",
        "init": address,
        "backbone": {"name": "resnet10"},
        "expander": {"layers": [8]},
        "data": digits,
        "training": {"epochs": 1, "batch_size": 64},
    }
    assert (
        tagged("c", training, lambda each: train(each, torch.device("cpu"), Timeline()))
        == "models:/aliased/1"
    )


@pytest.mark.parametrize(
    "encoder",
    [
        RunEncoder(run="0" * 32),
        ModelEncoder(model="models:/nothing/1"),
        ModelEncoder(model="models:/nothing@candidate"),
    ],
)
def test_a_missing_encoder_is_a_user_failure(
    mlflow_server: MlflowServer, encoder: RunEncoder | ModelEncoder
) -> None:
    with pytest.raises(UserFailure):
        load_encoder(encoder, 32, None, mlflow_server.url, Path())


def test_an_alias_that_no_version_has_is_named(mlflow_server: MlflowServer) -> None:
    MlflowClient(mlflow_server.url).create_registered_model("bare")
    for address in ("models:/bare@best", "models:/bare/latest"):
        with pytest.raises(UserFailure, match=f"there is no {address}"):
            version_of(address, mlflow_server.url)
    assert version_of("models:/bare/7", mlflow_server.url) == "models:/bare/7"


def test_an_unreachable_server_is_an_infrastructure_failure() -> None:
    (port,) = free_ports(1)
    with pytest.raises(InfrastructureFailure):
        load_encoder(RunEncoder(run="0" * 32), 32, None, f"http://127.0.0.1:{port}", Path())


def test_an_encoder_is_exported_from_its_run_to_onnx(
    mlflow_server: MlflowServer, published: tuple[str, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    run_id, _ = published
    file = tmp_path / "encoder.onnx"
    command = [sys.executable, "-m", "vicreg_workers.export"]
    done = subprocess.run(
        [*command, run_id, str(file), "--mlflow", mlflow_server.url],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "resnet10 for images of 32 pixels" in done.stdout.splitlines()[-1]
    session = onnxruntime.InferenceSession(str(file))
    (representations,) = session.run(None, {"images": np.zeros((5, 3, 32, 32), np.float32)})
    assert representations.shape == (5, 512)
    missing = subprocess.run(
        [*command, "0" * 32, str(file), "--mlflow", mlflow_server.url],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert missing.returncode == 1
    assert missing.stderr.startswith("there is no encoder at runs:/")
