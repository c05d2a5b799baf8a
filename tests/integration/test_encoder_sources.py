"""An encoder is read back from its run and from the model registry."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient

from tests.integration.conftest import MlflowServer
from vicreg_platform.local import free_ports
from vicreg_platform.specs import JobEncoder, ModelEncoder, PretrainSpec, RunEncoder, parse_spec
from vicreg_platform.tracking import Tracking
from vicreg_workers.encoder import FOLDER, encoder_files, load_encoder
from vicreg_workers.failures import InfrastructureFailure, UserFailure
from vicreg_workers.run_log import RunLog
from vicreg_workers.selfsup.backbones import build_backbone


@pytest.fixture(scope="module")
def published(mlflow_server: MlflowServer) -> tuple[str, dict[str, torch.Tensor]]:
    """A run with an encoder, and the encoder's weights."""
    spec = parse_spec(
        {"kind": "pretrain", "data": {"source": "digits"}, "backbone": {"name": "resnet10"}}
    )
    assert isinstance(spec, PretrainSpec)
    backbone = build_backbone(spec.backbone)
    run_id, _ = Tracking(mlflow_server.url).ensure_run("enc", "n", "e", {"kind": "pretrain"}, None)
    log = RunLog(mlflow_server.url, run_id)
    for name, content in encoder_files(backbone, spec).items():
        log.file(f"{FOLDER}/{name}", content)
    log.close(60)
    return run_id, backbone.state_dict()


def test_from_its_job_its_run_and_the_registry(
    mlflow_server: MlflowServer, published: tuple[str, dict[str, torch.Tensor]]
) -> None:
    run_id, weights = published
    client = MlflowClient(mlflow_server.url)
    client.create_registered_model("vicreg")
    artifacts = client.get_run(run_id).info.artifact_uri
    client.create_model_version("vicreg", f"{artifacts}/{FOLDER}", run_id)
    for encoder, job_run in [
        (JobEncoder(job="enc"), run_id),
        (RunEncoder(run=run_id), None),
        (ModelEncoder(model="models:/vicreg/1"), None),
    ]:
        loaded = load_encoder(encoder, job_run, mlflow_server.url, Path()).state_dict()
        assert all(torch.equal(weights[name], loaded[name]) for name in weights)


@pytest.mark.parametrize(
    "encoder", [RunEncoder(run="0" * 32), ModelEncoder(model="models:/nothing/1")]
)
def test_an_encoder_that_is_not_there_is_the_users_to_mend(
    mlflow_server: MlflowServer, encoder: RunEncoder | ModelEncoder
) -> None:
    with pytest.raises(UserFailure):
        load_encoder(encoder, None, mlflow_server.url, Path())


def test_a_server_that_is_away_is_no_fault_of_the_user() -> None:
    (port,) = free_ports(1)
    with pytest.raises(InfrastructureFailure):
        load_encoder(RunEncoder(run="0" * 32), None, f"http://127.0.0.1:{port}", Path())
