"""`vicreg up` as its user meets it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from vicreg_platform.cli.local import free_ports

VICREG = [sys.executable, "-m", "vicreg_platform.cli"]


def up(home: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*VICREG, "up", "--home", str(home), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def command(home: Path, *arguments: str) -> str:
    """What a command prints that finds its key in the home."""
    environment = os.environ | {"VICREG_HOME": str(home)}
    done = subprocess.run(
        [*VICREG, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def refusal(home: Path, *arguments: str) -> str:
    process = up(home, *arguments)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in output
    return " ".join(output.split())


def alive_with(text: str) -> list[str]:
    """Command lines of processes that mention ``text``."""
    lines = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            if text in line and process.pid != os.getpid() and process.status() != "zombie":
                lines.append(line)
        except psutil.Error:
            continue
    return lines


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (free,) = free_ports(1)
        said = refusal(tmp_path, "--api-port", str(port), "--mlflow-port", str(free))
        assert f"port {port}, needed for API, is in use" in said
        said = refusal(tmp_path, "--api-port", str(free), "--mlflow-port", str(port))
        assert f"port {port}, needed for MLflow, is in use" in said


def test_it_says_when_it_is_ready_has_its_home_alone_and_leaves_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    api, mlflow = free_ports(2)
    ports = ["--api-port", str(api), "--mlflow-port", str(mlflow)]
    process = up(home, *ports)
    assert process.stdout is not None
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        said = "".join(lines)
        assert f"http://127.0.0.1:{api}" in said
        assert httpx.get(f"http://127.0.0.1:{api}/readyz").json()["ready"]
        assert httpx.get(f"http://127.0.0.1:{mlflow}/").status_code == 200
        assert "in use by another `vicreg up`" in refusal(home, *map(str, _other_ports()))
        for name in ("api-key", "ray-token"):
            assert (home / name).stat().st_mode & 0o777 == 0o600
        assert home.stat().st_mode & 0o777 == 0o700
        ray = re.search(r"Ray dashboard\s+(\S+)", said)
        assert ray is not None
        assert httpx.get(f"{ray[1]}/api/jobs/").status_code == 401
        assert httpx.get(f"http://127.0.0.1:{api}/v1/jobs").status_code == 401
        assert "node 0" in command(home, "cluster", "--api", f"http://127.0.0.1:{api}")
        assert {file.name for file in (home / "logs").iterdir()} == {
            "ray.log", "mlflow.log", "api.log", "dispatcher.log",
        }  # fmt: skip
        _ray_is_restarted_when_its_node_ends_itself(process.pid, api)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) > 4
        # MLflow runs no jobs of its own beside its server.
        assert [each for each in children if "huey" in " ".join(each.cmdline())] == []
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    _, left = psutil.wait_procs(children, timeout=10)
    assert left == []
    assert alive_with(str(home)) == []


def _ray_is_restarted_when_its_node_ends_itself(parent: int, api: int) -> None:
    """Ray's raylet ends when its agent does, and ``ray start --block`` takes that for an order."""

    def agents() -> list[psutil.Process]:
        return [
            child
            for child in psutil.Process(parent).children(recursive=True)
            if child.status() != psutil.STATUS_ZOMBIE
            and any("dashboard/agent.py" in part for part in child.cmdline())
        ]

    def ready() -> bool:
        return bool(httpx.get(f"http://127.0.0.1:{api}/readyz", timeout=30).json()["ready"])

    (killed,) = agents()
    killed.kill()
    for wanted in (False, True):
        deadline = time.monotonic() + 120
        while ready() is not wanted:
            assert time.monotonic() < deadline
            time.sleep(0.5)
    assert [agent.pid for agent in agents()] != [killed.pid]


# The second: when the first processes of Ray's are there, and it waits for others of them.
@pytest.mark.parametrize("started", [5, 7])
def test_its_children_end_with_it_even_when_it_is_killed(tmp_path: Path, started: int) -> None:
    api, mlflow = free_ports(2)
    process = up(tmp_path / "home", "--api-port", str(api), "--mlflow-port", str(mlflow))
    deadline = time.monotonic() + 60
    before: list[psutil.Process] = []
    # The same at two looks: a process of Ray's is tied to its parent just after its fork.
    while len(children := psutil.Process(process.pid).children(recursive=True)) < started or (
        children != before
    ):
        assert time.monotonic() < deadline
        before = children
        time.sleep(0.1)
    process.kill()
    process.wait()
    _, left = psutil.wait_procs(children, timeout=40)
    assert left == []


def _other_ports() -> list[str]:
    api, mlflow = free_ports(2)
    return ["--api-port", str(api), "--mlflow-port", str(mlflow)]
