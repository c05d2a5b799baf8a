"""A Ray head that cannot give one log is not a cluster that is unreachable."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vicreg_platform.cluster import ray_jobs
from vicreg_platform.cluster.ray_jobs import END_BYTES, RayCluster
from vicreg_platform.errors import ClusterUnavailable, LogUnavailable


@contextmanager
def ray(log: bytes | None, status: int = 200, missing: int = 0) -> Iterator[RayCluster]:
    """A head that knows every submission, and the agent that gives its log.

    Args:
        log: what the agent sends; None if it accepts and never answers.
        status: of its answer.
        missing: bytes that it announces and does not send.
    """
    ended = threading.Event()

    class Head(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.startswith("/api/v0/logs"):
                return self._send(200, json.dumps({"driver_node_id": "a"}).encode())
            if log is None:
                ended.wait()
                return None
            return self._send(status, log, missing)

        def _send(self, status: int, content: bytes, missing: int = 0) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content) + missing))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Head)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield RayCluster(f"http://127.0.0.1:{server.server_port}", timeout=0.5)
    finally:
        ended.set()
        server.shutdown()
        server.server_close()


def test_a_log_may_hold_any_bytes() -> None:
    with ray(b"caf\xe9 \xff\n") as cluster:
        assert b"".join(cluster.log("a") or ()) == b"caf\xe9 \xff\n"
        assert cluster.last_lines("a", 100) == "caf\ufffd \ufffd\n"


def test_the_end_of_a_log_of_long_lines_is_short() -> None:
    with ray(b"x" * 10 * END_BYTES + b"the end") as cluster:
        end = cluster.last_lines("a", 100)
        assert len(end) == END_BYTES
        assert end.endswith("xthe end")


@pytest.mark.parametrize(
    ("log", "status", "missing"),
    [(None, 200, 0), (b"Traceback", 500, 0), (b"epoch 1\n", 200, 100)],
    ids=["its agent hangs", "its agent fails", "it is cut off"],
)
def test_a_log_that_does_not_come_is_the_log_of_one_job(
    log: bytes | None, status: int, missing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_jobs, "END_SECONDS", 0.5)
    with ray(log, status, missing) as cluster:
        with pytest.raises(LogUnavailable):
            cluster.last_lines("a", 100)
        with pytest.raises(LogUnavailable):
            list(cluster.log("a") or ())


def test_a_head_that_does_not_answer_is_the_cluster() -> None:
    with ray(b"") as cluster:
        pass
    with pytest.raises(ClusterUnavailable):
        cluster.last_lines("a", 100)
