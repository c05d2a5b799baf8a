"""The health check of a Ray container: when it ends the node."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vicreg_workers.node_health import FAILURES, STARTING_FAILURES, check, end_container


class Node:
    """What a node serves, and its checks."""

    def __init__(self, count: Path) -> None:
        self.status = 200
        self.ended = 0
        node = self

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(node.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=self.server.serve_forever).start()
        self._count = count

    def check(self) -> bool:
        def end() -> None:
            self.ended += 1

        port = self.server.server_port
        return check([f"{port}/gcs", f"{port}/raylet"], self._count, end)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path / "count")
    yield made
    made.stop()


@pytest.mark.parametrize("refused", [False, True], ids=["an error", "nobody listens"])
def test_a_node_that_was_healthy_is_ended_when_it_has_failed_often(
    node: Node, refused: bool
) -> None:
    assert node.check()
    if refused:
        node.stop()
    node.status = 503
    assert [node.check() for _ in range(FAILURES - 1)] == [False] * (FAILURES - 1)
    assert node.ended == 0
    assert not node.check()
    assert node.ended == 1


def test_failures_count_only_in_a_row(node: Node) -> None:
    for _ in range(3):
        node.status = 200
        assert node.check()
        node.status = 503
        for _ in range(FAILURES - 1):
            assert not node.check()
    assert node.ended == 0


def test_a_node_has_longer_to_start(node: Node) -> None:
    node.status = 503
    for _ in range(STARTING_FAILURES - 1):
        assert not node.check()
    assert node.ended == 0
    assert not node.check()
    assert node.ended == 1


def test_a_check_that_is_killed_counts(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine kills one that takes longer than its timeout."""
    assert node.check()

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("urllib.request.urlopen", killed)
        for _ in range(FAILURES - 1):
            with pytest.raises(KeyboardInterrupt):
                node.check()
    node.status = 503
    assert not node.check()
    assert node.ended == 1


def test_nothing_is_ended_outside_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[object] = []
    monkeypatch.setattr("os.kill", lambda *call: killed.append(call))
    monkeypatch.setattr(Path, "read_text", lambda _: "systemd\n")
    with pytest.raises(RuntimeError):
        end_container()
    assert killed == []
