from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from vicreg_platform.cli.local import MLFLOW_ENVIRONMENT, Child, free_ports, mlflow_command


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait on a condition, never on the clock alone."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.05)


class MlflowServer:
    """A real MLflow server that can be stopped and restarted."""

    def __init__(self, home: Path) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        command = mlflow_command(home, port)
        self._child = Child("mlflow", command, MLFLOW_ENVIRONMENT, home / "mlflow.log")

    def start(self) -> None:
        self._child.start()
        wait_until(self.answers, seconds=180.0)  # slow to start on few cores

    def end(self) -> None:
        self._child.end()

    def process_group(self) -> int:
        assert self._child.process is not None
        return self._child.process.pid

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/health", timeout=1).ok
        except requests.RequestException:
            process = self._child.process
            assert isinstance(process, subprocess.Popen)
            assert process.poll() is None, self._child.log.read_text()[-2000:]
            return False


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.end()
