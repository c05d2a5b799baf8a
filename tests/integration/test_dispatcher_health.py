"""``/healthz`` and the metrics of a dispatcher, over a socket."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.integration.conftest import wait_until
from vicreg_platform.cli.local import Child, free_ports, healthy
from vicreg_platform.dispatcher import serve


def test_a_dispatcher_without_rounds_is_not_healthy() -> None:
    (port,) = free_ports(1)
    alive = True
    serve(port, lambda: alive)
    address = f"http://127.0.0.1:{port}"
    assert httpx.get(f"{address}/healthz").status_code == 200
    assert "vicreg_dispatch_rounds_total" in httpx.get(f"{address}/metrics").text
    alive = False
    answer = httpx.get(f"{address}/healthz")
    assert (answer.status_code, answer.text) == (503, "no round has ended for two minutes\n")


def test_the_dispatcher_of_one_machine_answers_this_machine_alone(tmp_path: Path) -> None:
    """Whether Ray and MLflow are there or not: a restart would not help."""
    (port,) = free_ports(1)
    child = Child(
        "dispatcher",
        [sys.executable, "-m", "vicreg_platform.dispatcher", f"--health-port={port}"],
        {"VICREG_HOME": str(tmp_path)},
        tmp_path / "log",
    )
    child.start()
    try:
        wait_until(healthy(f"http://127.0.0.1:{port}/healthz"))
        assert [each.laddr.ip for each in _listening(child)] == ["127.0.0.1"]
    finally:
        child.end()
    assert "unreachable" in child.log.read_text()


def _listening(child: Child) -> list[Any]:
    assert child.process is not None
    connections = psutil.Process(child.process.pid).net_connections("inet")
    return [each for each in connections if each.status == psutil.CONN_LISTEN]
