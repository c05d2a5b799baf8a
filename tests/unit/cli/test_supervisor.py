"""What `vicreg up` does about a child that dies or hangs, with small real processes."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import wait_until
from vicreg_platform.cli.local import (
    FIRST_BACKOFF_SECONDS,
    Child,
    LocalOptions,
    LocalPlatform,
    free_ports,
    healthy,
)

SERVER = """
import http.server, sys, time
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(sys.argv[2]))
        self.send_header("content-length", "0")
        self.end_headers()
time.sleep(float(sys.argv[3]))
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""
TIMEOUT = 0.5
"""Of an answer."""


def server(folder: Path, status: int = 200, starts_after: float = 0.0, **fields: Any) -> Child:
    """A child that answers with a status; what takes a minute elsewhere takes a second."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-c", SERVER, str(port), str(status), str(starts_after)]
    quick: dict[str, Any] = {"backoff": 0.01, "grace_seconds": 0.5, "silent_seconds": 1.0}
    works = healthy(url, TIMEOUT)
    return Child("server", command, {}, folder / "log", works=works, **quick | fields)


@contextmanager
def supervised(child: Child) -> Iterator[None]:
    """A child with the two threads that ``LocalPlatform`` has for its children."""
    ending = threading.Event()

    def ask() -> None:
        while not ending.wait(0.05):
            child.ask()

    def supervise() -> None:
        while not ending.wait(0.05):
            child.check()
            child.revive()

    child.start()
    threads = [threading.Thread(target=ask), threading.Thread(target=supervise)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ending.set()
        for thread in threads:
            thread.join()
        child.end()


def pid(child: Child) -> int:
    assert child.process is not None
    return child.process.pid


def works(child: Child) -> Callable[[], bool]:
    return lambda: bool(child.works())


def test_a_child_that_hangs_is_restarted(tmp_path: Path) -> None:
    child = server(tmp_path)
    with supervised(child):
        wait_until(lambda: child.health.worked)
        hung = pid(child)
        os.kill(hung, signal.SIGSTOP)
        wait_until(lambda: child.restarts >= 1)
        wait_until(works(child))
        assert pid(child) != hung


def test_a_child_that_hangs_for_a_moment_is_left_alone(tmp_path: Path) -> None:
    child = server(tmp_path, silent_seconds=60.0)
    with supervised(child):
        wait_until(lambda: child.health.worked)
        os.kill(pid(child), signal.SIGSTOP)
        wait_until(lambda: child.health.idle_since is not None)
        os.kill(pid(child), signal.SIGCONT)
        wait_until(lambda: child.health.idle_since is None)
        assert child.restarts == 0


def test_a_child_that_says_it_does_nothing_is_restarted_sooner(tmp_path: Path) -> None:
    child = server(tmp_path, 503, start_seconds=0.0, idle_seconds=0.5, silent_seconds=600.0)
    with supervised(child):
        wait_until(lambda: child.restarts >= 1)


def test_a_child_that_starts_slowly_is_left_alone(tmp_path: Path) -> None:
    slowly = 4.0  # longer than a child that has worked may be silent
    child = server(tmp_path, starts_after=slowly)
    with supervised(child):
        wait_until(lambda: child.health.worked)
        assert time.monotonic() - child.started > slowly
        assert child.restarts == 0


def test_a_child_that_never_starts_is_restarted(tmp_path: Path) -> None:
    child = server(tmp_path, starts_after=600.0, start_seconds=0.5)
    with supervised(child):
        wait_until(lambda: child.restarts >= 1)


def test_a_restarted_child_has_its_whole_time_to_start(tmp_path: Path) -> None:
    """Whatever is answered late of the process before it."""
    child = server(tmp_path)
    child.start()
    asked, answered = threading.Event(), threading.Event()

    def late() -> bool:
        asked.set()
        assert answered.wait(60)
        return True

    child.works = late
    asking = threading.Thread(target=child.ask)
    asking.start()
    try:
        assert asked.wait(60)
        child.end()
        child.start()
        answered.set()
        asking.join()
        assert not child.health.worked
    finally:
        answered.set()
        child.end()


@pytest.mark.parametrize(
    ("steady_seconds", "last"), [(0.0, 2 * FIRST_BACKOFF_SECONDS), (600.0, 0.08)]
)
def test_the_wait_grows_only_for_a_child_that_dies_again_and_again(
    tmp_path: Path, steady_seconds: float, last: float
) -> None:
    child = server(tmp_path, steady_seconds=steady_seconds)
    child.start()
    try:
        for restart in range(1, 4):
            wait_until(works(child))
            child.revive()  # it is up
            os.kill(pid(child), signal.SIGKILL)

            def restarted(wanted: int = restart) -> bool:
                child.revive()
                return child.restarts == wanted

            wait_until(restarted)
        assert child.backoff == pytest.approx(last)
    finally:
        child.end()


def test_an_answer_is_waited_for_only_so_long(tmp_path: Path) -> None:
    child = server(tmp_path)
    child.start()
    try:
        wait_until(works(child))
        os.kill(pid(child), signal.SIGSTOP)
        began = time.monotonic()
        assert child.works() is None
        assert time.monotonic() - began < 10 * TIMEOUT
    finally:
        child.end()
    assert child.works() is None  # nobody listens


def test_every_child_of_the_platform_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of them works before it is started."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    api, mlflow = free_ports(2)
    platform = LocalPlatform(LocalOptions(tmp_path / "home", tmp_path / "data", api, mlflow))
    assert [child.name for child in platform.children] == ["ray", "mlflow", "api", "dispatcher"]
    assert [child.works() for child in platform.children] == [None] * 4
