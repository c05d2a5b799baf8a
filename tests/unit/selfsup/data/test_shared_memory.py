"""What loaders have in flight is bounded by bytes: those of a batch, and those that are free."""

from __future__ import annotations

import re
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from vicreg_workers.selfsup.data import shared_memory
from vicreg_workers.selfsup.data.shared_memory import HERE, InFlight, in_flight

MB = 2**20
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> int:
    """What the loaders of this process may fill: half of what is free."""
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(0, 0, 2048 * MB))
    return 1024 * MB


@pytest.mark.parametrize(
    ("batch_bytes", "batches"),
    [(0, 8), (1, 8), (16 * MB, 8), (32 * MB, 4), (64 * MB, 2), (100 * MB, 2)],
)
@pytest.mark.usefixtures("room")
def test_small_batches_are_made_further_ahead(batch_bytes: int, batches: int) -> None:
    assert in_flight(4, batch_bytes) == InFlight(4, batches)


def test_with_little_room_each_loader_has_one_batch_before_there_are_fewer(
    room: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert in_flight(8, room // 16) == InFlight(8, 2)
    assert in_flight(8, room // 15) == InFlight(8, 1)
    assert in_flight(8, room // 8) == InFlight(8, 1)
    assert caplog.records == []
    assert in_flight(8, int(room / 3.5)) == InFlight(3, 1)
    assert (
        "3 of 8 loaders are used: /dev/shm has 2147 MB free, and each needs 307 MB" in caplog.text
    )
    assert in_flight(8, room + 1) == in_flight(0, MB) == HERE


def test_what_the_warning_says_is_enough_for_all_loaders_of_all_workers(
    room: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert in_flight(8, room // 10) == InFlight(2, 1)
    (warning,) = caplog.messages
    said = re.search(r"of all its 4 workers \(docker: --shm-size (\d+)m\)", warning)
    assert said is not None
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(0, 0, int(said[1]) * MB))
    assert in_flight(8, room // 10) == InFlight(8, 2)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("loaders", [1, 3, 8])
@pytest.mark.parametrize("batch_bytes", [1, 3 * MB, 70 * MB, 300 * MB, 900 * MB])
def test_no_more_than_the_room_is_in_flight(room: int, loaders: int, batch_bytes: int) -> None:
    found = in_flight(loaders, batch_bytes)
    assert found.loaders * (found.batches or 0) * batch_bytes <= room


def test_processes_of_a_machine_share_the_room(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert in_flight(4, room // 16) == InFlight(4, 1)


def test_without_shared_memory_on_a_file_system_nothing_bounds_the_loaders(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path / "none")
    assert in_flight(8, 900 * MB) == InFlight(8, 2)
