"""What workers say to MLflow: nothing lost, nothing twice, and training never waits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.integration.conftest import MlflowServer, wait_until
from vicreg_platform.cli.local import free_ports
from vicreg_platform.contract.progress import Progress
from vicreg_platform.tracking import Tracking
from vicreg_workers.failures import InfrastructureFailure, UserFailure
from vicreg_workers.tracking.outbox import RunLog


@pytest.fixture
def run_id(mlflow_server: MlflowServer) -> str:
    job = f"job-{time.time_ns()}"
    return Tracking(mlflow_server.url).ensure_run(
        job, "run", "run-log", {"kind": "pretrain"}, None
    )[0]


@pytest.fixture
def fragile_server(tmp_path: Path) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path)
    server.start()
    yield server
    server.end()


def steps(server: MlflowServer, run_id: str, metric: str) -> list[int]:
    return [point.step for point in Tracking(server.url).history(run_id, metric)]


def test_a_run_is_made_once_however_often_it_is_asked_for(mlflow_server: MlflowServer) -> None:
    tracking = Tracking(mlflow_server.url)
    first = tracking.ensure_run("job-once", "n", "e", {"kind": "pretrain"}, None)
    assert tracking.ensure_run("job-once", "n", "e", {"kind": "pretrain"}, None) == first


def test_points_progress_and_files_arrive(mlflow_server: MlflowServer, run_id: str) -> None:
    log = RunLog(mlflow_server.url, run_id)
    for step in range(2500):  # more than one request holds
        log.metrics({"train/loss": 1.0 / (step + 1)}, step)
    log.progress(Progress(epoch=1, epochs=2, step=3, steps=4, images_per_second=5, eta_seconds=6))
    log.file("pictures/views.png", b"png")
    log.close(60)
    assert steps(mlflow_server, run_id, "train/loss") == list(range(2500))
    reading = Tracking(mlflow_server.url).read(run_id)
    assert reading.progress is not None
    assert reading.progress["eta_seconds"] == 6.0
    artifacts = MlflowClient(mlflow_server.url).list_artifacts(run_id, "pictures")
    assert [artifact.path for artifact in artifacts] == ["pictures/views.png"]


def test_after_a_restart_no_point_is_missing_and_none_is_twice(
    mlflow_server: MlflowServer, run_id: str
) -> None:
    first = RunLog(mlflow_server.url, run_id)
    for step in range(10):
        first.metrics({"train/loss": float(step)}, step)
    first.close(60)
    # The checkpoint was written at step 8, when point 7 had not been sent: training goes on there.
    second = RunLog(mlflow_server.url, run_id, resumed=True)
    second.restore_unsent([("train/loss", 7.0, 1, 7)])
    for step in range(8, 13):
        second.metrics({"train/loss": float(step)}, step)
    second.close(60)
    assert steps(mlflow_server, run_id, "train/loss") == list(range(13))


def test_a_server_that_is_away_neither_slows_nor_loses_anything(
    fragile_server: MlflowServer,
) -> None:
    run_id, _ = Tracking(fragile_server.url).ensure_run("j", "n", "e", {"kind": "pretrain"}, None)
    log = RunLog(fragile_server.url, run_id)
    log.metrics({"train/loss": 0.0}, 0)
    wait_until(lambda: not log.unsent())
    fragile_server.end()
    slowest = 0.0
    for step in range(1, 400):
        began = time.perf_counter()
        log.metrics({"train/loss": float(step)}, step)
        slowest = max(slowest, time.perf_counter() - began)
        time.sleep(0.002)  # a training step
    assert slowest < 0.1
    assert len(log.unsent()) == 399
    with pytest.raises(InfrastructureFailure, match="MLflow took nothing"):
        log.close(timeout=1.0)
    fragile_server.start()
    log.close(60)
    assert steps(fragile_server, run_id, "train/loss") == list(range(400))


def test_a_failure_is_not_hidden_by_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vicreg_workers.tracking.outbox.FAILED_CLOSE_SECONDS", 0.5)
    (port,) = free_ports(1)

    def fail() -> None:
        with RunLog(f"http://127.0.0.1:{port}", "run") as log:
            log.metrics({"train/loss": 1.0}, 1)
            raise UserFailure("no images")

    with pytest.raises(UserFailure, match="no images"):
        fail()


def test_an_error_without_a_text_does_not_end_the_sending(
    mlflow_server: MlflowServer, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vicreg_workers.tracking.outbox.RETRY_SECONDS", 0.1)
    failures = iter([TimeoutError(), TimeoutError()])
    send = RunLog._send

    def failing(self: RunLog, client: MlflowClient) -> None:
        for error in failures:
            raise error
        send(self, client)

    monkeypatch.setattr(RunLog, "_send", failing)
    log = RunLog(mlflow_server.url, run_id)
    log.metrics({"train/loss": 1.0}, 1)
    log.close(60)
    assert steps(mlflow_server, run_id, "train/loss") == [1]
