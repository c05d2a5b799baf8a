"""What workers send to MLflow: nothing is lost or sent twice, and training never waits."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from mlflow.tracking import MlflowClient

from tests.integration.conftest import MlflowServer, wait_until
from vicreg_platform.cli.local import free_ports
from vicreg_platform.contract.progress import Progress
from vicreg_platform.contract.timeline import AttemptTimeline, Timeline
from vicreg_platform.errors import TrackingUnavailable
from vicreg_platform.tracking import Tracking
from vicreg_workers.failures import InfrastructureFailure, UserFailure
from vicreg_workers.tracking.outbox import Outbox


@pytest.fixture
def run_id(mlflow_server: MlflowServer) -> str:
    job = f"job-{time.time_ns()}"
    return Tracking(mlflow_server.url).ensure_run(job, "run", "outbox", {"kind": "pretrain"}, None)[
        0
    ]


@pytest.fixture
def fragile_server(tmp_path: Path) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path)
    server.start()
    yield server
    server.end()


def steps(server: MlflowServer, run_id: str, metric: str) -> list[int]:
    return [point.step for point in Tracking(server.url).history(run_id, metric)]


def test_a_run_is_created_once(mlflow_server: MlflowServer) -> None:
    tracking = Tracking(mlflow_server.url)
    first = tracking.ensure_run("job-once", "n", "e", {"kind": "pretrain"}, None)
    assert tracking.ensure_run("job-once", "n", "e", {"kind": "pretrain"}, None) == first


def test_points_progress_and_files_arrive(
    mlflow_server: MlflowServer, run_id: str, tmp_path: Path
) -> None:
    timeline = AttemptTimeline(attempt=2, timeline=Timeline())
    outbox = Outbox(mlflow_server.url, run_id, timeline=timeline)
    outbox.reached("data_open")
    for step in range(2500):  # more than one request holds
        outbox.metrics({"train/loss": 1.0 / (step + 1)}, step)
    progress = Progress(epoch=1, epochs=2, step=3, steps=4, images_per_second=5, eta_seconds=6)
    outbox.progress(progress)
    outbox.file("pictures/views.png", b"png")
    large = tmp_path / "large"
    large.write_bytes(b"npz")
    outbox.file("features.npz", large)
    outbox.close(60)
    assert steps(mlflow_server, run_id, "train/loss") == list(range(2500))
    reading = Tracking(mlflow_server.url).read(run_id)
    assert Progress.model_validate(reading.progress) == progress
    assert reading.timeline is not None
    assert reading.timeline.attempt == 2
    data_open, published = reading.timeline.timeline.reached().items()
    assert (data_open[0], published[0]) == ("data_open", "published")
    assert data_open[1] < published[1]
    client = MlflowClient(mlflow_server.url)
    artifacts = client.list_artifacts(run_id, "pictures")
    assert [artifact.path for artifact in artifacts] == ["pictures/views.png"]
    stored = client.download_artifacts(run_id, "features.npz", str(tmp_path))
    assert Path(stored).read_bytes() == b"npz"
    assert not large.exists()


def test_after_a_restart_no_point_is_missing_or_duplicated(
    mlflow_server: MlflowServer, run_id: str
) -> None:
    first = Outbox(mlflow_server.url, run_id)
    for step in range(10):
        first.metrics({"train/loss": float(step)}, step)
    first.close(60)
    # The checkpoint was written at step 8, when point 7 had not been sent: training resumes there.
    second = Outbox(mlflow_server.url, run_id, resumed=True)
    second.restore_unsent([("train/loss", 7.0, 1, 7)])
    for step in range(8, 13):
        second.metrics({"train/loss": float(step)}, step)
    second.close(60)
    assert steps(mlflow_server, run_id, "train/loss") == list(range(13))


def test_an_unreachable_server_blocks_nothing_and_loses_nothing(
    fragile_server: MlflowServer,
) -> None:
    run_id, _ = Tracking(fragile_server.url).ensure_run("j", "n", "e", {"kind": "pretrain"}, None)
    outbox = Outbox(fragile_server.url, run_id)
    outbox.metrics({"train/loss": 0.0}, 0)
    wait_until(lambda: not outbox.unsent())
    fragile_server.end()
    # Hung, not gone: whoever waits for an answer would wait for ever.
    with socket.create_server(("127.0.0.1", urlsplit(fragile_server.url).port or 0)) as hung:
        outbox.metrics({"train/loss": 1.0}, 1)
        connection, _ = hung.accept()  # the outbox waits for an answer now
        for step in range(2, 400):
            outbox.metrics({"train/loss": float(step)}, step)
        assert len(outbox.unsent()) == 399
        with pytest.raises(InfrastructureFailure, match="MLflow accepted nothing"):
            outbox.close(timeout=1.0)
        connection.close()
    fragile_server.start()
    outbox.close(60)
    assert steps(fragile_server, run_id, "train/loss") == list(range(400))


def test_a_failure_is_not_hidden_by_an_unreachable_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vicreg_workers.tracking.outbox.FAILED_CLOSE_SECONDS", 0.5)
    (port,) = free_ports(1)

    def fail() -> None:
        with Outbox(f"http://127.0.0.1:{port}", "run") as outbox:
            outbox.metrics({"train/loss": 1.0}, 1)
            raise UserFailure("no images")

    with pytest.raises(UserFailure, match="no images"):
        fail()


def test_an_error_without_a_message_does_not_stop_the_sending(
    mlflow_server: MlflowServer, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vicreg_workers.tracking.outbox.RETRY_SECONDS", 0.1)
    failures = iter([TimeoutError(), TimeoutError()])
    log_batch = MlflowClient.log_batch

    def failing(self: MlflowClient, *arguments: Any, **named: Any) -> None:
        for error in failures:
            raise error
        log_batch(self, *arguments, **named)

    monkeypatch.setattr(MlflowClient, "log_batch", failing)
    outbox = Outbox(mlflow_server.url, run_id)
    outbox.metrics({"train/loss": 1.0}, 1)
    outbox.close(60)
    assert steps(mlflow_server, run_id, "train/loss") == [1]


def test_a_run_deleted_while_it_is_written_to_fails_the_job_at_once(
    mlflow_server: MlflowServer, run_id: str
) -> None:
    outbox = Outbox(mlflow_server.url, run_id)
    outbox.metrics({"train/loss": 1.0}, 1)
    wait_until(lambda: not outbox.unsent())
    MlflowClient(mlflow_server.url).delete_run(run_id)
    outbox.metrics({"train/loss": 1.0}, 2)

    def refused() -> bool:
        try:
            outbox.metrics({"train/loss": 1.0}, 3)
        except UserFailure:
            return True
        return False

    wait_until(refused, 30)
    with pytest.raises(UserFailure, match="MLflow refuses what this job records"):
        outbox.close(5)


def test_a_file_that_is_not_sent_is_deleted_all_the_same(
    mlflow_server: MlflowServer, run_id: str, tmp_path: Path
) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"npz")
    MlflowClient(mlflow_server.url).delete_run(run_id)
    outbox = Outbox(mlflow_server.url, run_id)
    outbox.tags({"name": "refused before the file is sent"})
    outbox.file("features.npz", large)
    with pytest.raises(UserFailure, match="MLflow refuses"):
        outbox.__exit__(None)
    assert not large.exists()


def test_the_run_is_created_when_mlflow_is_there(mlflow_server: MlflowServer) -> None:
    tracking = Tracking(mlflow_server.url)
    job, tries = f"job-{time.time_ns()}", []

    def create() -> str:
        tries.append(time.monotonic())
        if len(tries) < 3:
            raise TrackingUnavailable("not yet")
        return tracking.ensure_run(job, "run", "outbox", {"kind": "pretrain"}, None)[0]

    with Outbox(mlflow_server.url, create, resumed=True) as outbox:
        for step in range(20):
            outbox.metrics({"train/loss": float(step)}, step)
    run = tracking.run_of_job(job, "outbox")
    assert run is not None
    assert steps(mlflow_server, run[0], "train/loss") == list(range(20))
