"""A worker learns of a stop, and a storage that does not answer delays no step."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from tests.integration.conftest import wait_until
from vicreg_workers.stop_signal import StopSignal


class Hanging(LocalFileSystem):  # type: ignore[misc]
    """A storage that accepts every request, and answers when told to."""

    protocol = "hanging"
    cachable = False
    answers = threading.Event()
    asked = threading.Event()

    def exists(self, path: str, **options: object) -> bool:
        self.asked.set()
        self.answers.wait()
        return bool(super().exists(path, **options))


@pytest.fixture
def hanging(tmp_path: Path) -> str:
    fsspec.register_implementation("hanging", Hanging, clobber=True)
    Hanging.answers.clear()
    Hanging.asked.clear()
    return f"hanging://{tmp_path}"


def test_a_storage_that_hangs_delays_no_step(hanging: str) -> None:
    worker = StopSignal(hanging, "job", 1)
    with worker.watched():
        assert Hanging.asked.wait(10)
        before = time.monotonic()
        assert not worker.requested()
        assert time.monotonic() - before < 1
        worker.request()
        Hanging.answers.set()
        wait_until(worker.requested)


class Failing(LocalFileSystem):  # type: ignore[misc]
    """A storage that cannot be reached at first."""

    protocol = "failing"
    cachable = False
    failures = 2

    def exists(self, path: str, **options: object) -> bool:
        if Failing.failures:
            Failing.failures -= 1
            raise PermissionError("no credentials")
        return bool(super().exists(path, **options))


def test_a_storage_that_fails_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fsspec.register_implementation("failing", Failing, clobber=True)
    monkeypatch.setattr("vicreg_workers.stop_signal.LOOK_SECONDS", 0.01)
    worker = StopSignal(f"failing://{tmp_path}", "job", 1)
    with worker.watched():
        worker.request()
        wait_until(worker.requested)
    assert "no credentials" in caplog.text
