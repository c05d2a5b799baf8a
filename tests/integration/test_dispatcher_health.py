"""``/healthz`` and the metrics of a dispatcher, over a socket."""

from __future__ import annotations

import httpx

from vicreg_platform.cli.local import free_ports
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
