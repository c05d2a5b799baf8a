"""The MLflow server of `vicreg up`, with what it keeps in the home."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.integration.conftest import wait_until
from vicreg_platform.cli.local import (
    MLFLOW_ENVIRONMENT,
    START_SECONDS,
    Child,
    _mlflow_command,
    free_ports,
    healthy,
)


@pytest.mark.parametrize("name", ["50%, 100%25 a%20b?c=d#e f"])
def test_everything_is_in_a_home_of_an_odd_name(tmp_path: Path, name: str) -> None:
    """MLflow itself reads some paths as URLs, and makes folders of some URLs."""
    home = tmp_path / "around" / name
    home.mkdir(parents=True)
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    server = Child("mlflow", _mlflow_command(home, port), MLFLOW_ENVIRONMENT, tmp_path / "log")
    server.start()
    try:
        wait_until(healthy(f"{url}/health"), START_SECONDS)
        client = MlflowClient(url)
        run = client.create_run("0").info.run_id
        client.log_text(run, "hello", "greeting.txt")
        assert [file.path for file in client.list_artifacts(run)] == ["greeting.txt"]
    finally:
        server.end()
    assert [each.name for each in (tmp_path / "around").iterdir()] == [name]
    assert (home / "mlflow.db").stat().st_size > 0
    assert [file.read_text() for file in home.rglob("greeting.txt")] == ["hello"]
