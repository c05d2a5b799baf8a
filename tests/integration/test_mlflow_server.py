"""The MLflow server of `vicreg up` is MLflow's own, in one process."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest
import requests
from mlflow.tracking import MlflowClient

from tests.integration.conftest import MlflowServer


def test_it_is_one_process_that_ends_when_it_is_told_to(tmp_path: Path) -> None:
    server = MlflowServer(tmp_path)
    server.start()
    try:
        process = psutil.Process(server.process_group())
        assert process.children(recursive=True) == []
        named = requests.get(f"{server.url}/api/2.0/mlflow/experiments/get?experiment_id=0")
        assert named.json()["experiment"]["artifact_location"].startswith("mlflow-artifacts:/")
        assert (tmp_path / "mlflow.db").exists()
        assert server.answers()
        log = (tmp_path / "mlflow.log").read_text()
        assert "experiments/get" in log
        assert "GET /health" not in log  # the supervisor asks every few seconds
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    finally:
        server.end()


def test_it_answers_to_names_of_this_machine_alone(mlflow_server: MlflowServer) -> None:
    """As MLflow's own command does: a web page cannot reach it by a name of its own."""
    asked = f"{mlflow_server.url}/api/2.0/mlflow/experiments/get?experiment_id=0"
    assert requests.get(asked).status_code == 200
    refused = requests.get(asked, headers={"Host": "evil.example"})
    assert refused.status_code == 403


@pytest.mark.parametrize("name", ["50%, 100%25 a%20b?c=d#e f"])
def test_everything_is_in_a_home_of_an_odd_name(tmp_path: Path, name: str) -> None:
    """MLflow itself reads some paths as URLs, and makes folders of some URLs."""
    home = tmp_path / "around" / name
    home.mkdir(parents=True)
    server = MlflowServer(home)
    server.start()
    try:
        client = MlflowClient(server.url)
        run = client.create_run("0").info.run_id
        client.log_text(run, "hello", "greeting.txt")
        assert [file.path for file in client.list_artifacts(run)] == ["greeting.txt"]
    finally:
        server.end()
    assert [each.name for each in (tmp_path / "around").iterdir()] == [name]
    assert (home / "mlflow.db").stat().st_size > 0
    assert [file.read_text() for file in home.rglob("greeting.txt")] == ["hello"]
