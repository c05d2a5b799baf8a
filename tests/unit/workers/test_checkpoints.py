"""Checkpoints are whole or not there."""

from pathlib import Path

import torch

from vicreg_workers.checkpoints import Checkpoints
from vicreg_workers.context import State


def state(epoch: int) -> State:
    return State(epoch, {"weights": torch.full((3,), float(epoch))}, {"draws": epoch})


def folders(storage: Path) -> list[str]:
    return sorted(entry.name for entry in (storage / "job" / "checkpoints").iterdir())


def test_the_newest_comes_back(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), "job", keep=2)
    assert checkpoints.load() is None
    for epoch in (1, 2):
        checkpoints.save(state(epoch))
    loaded = Checkpoints(str(tmp_path), "job", keep=2).load()
    assert loaded is not None
    assert (loaded.epoch, loaded.own) == (2, {"draws": 2})
    assert torch.equal(loaded.shared["weights"], torch.full((3,), 2.0))


def test_only_so_many_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), "job", keep=2)
    for epoch in range(1, 5):
        checkpoints.save(state(epoch))
    assert folders(tmp_path) == ["epoch-00003", "epoch-00004"]


def test_one_that_was_not_finished_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), "job", keep=3)
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    (tmp_path / "job/checkpoints/epoch-00002/manifest.json").unlink()
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded.epoch == 1
    checkpoints.save(state(2))  # what was left of it is in nobody's way
    assert checkpoints.load().epoch == 2  # type: ignore[union-attr]


def test_a_torn_file_is_seen_and_the_one_before_is_used(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), "job", keep=3)
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    file = tmp_path / "job/checkpoints/epoch-00002/shared.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    assert checkpoints.load().epoch == 1  # type: ignore[union-attr]


def test_an_object_store_serves_as_well(tmp_path: Path) -> None:
    del tmp_path
    storage = "memory://bucket/vicreg"
    checkpoints = Checkpoints(storage, "job", keep=1)
    for epoch in (1, 2):
        checkpoints.save(state(epoch))
    loaded = Checkpoints(storage, "job", keep=1).load()
    assert loaded is not None
    assert loaded.epoch == 2
    name, files = checkpoints.last_files()  # type: ignore[misc]
    assert name == "epoch-00002"
    assert set(files) == {"shared.pt", "worker-0.pt", "manifest.json"}


def test_a_torn_manifest_is_no_checkpoint_either(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), "job", keep=3)
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    (tmp_path / "job/checkpoints/epoch-00002/manifest.json").write_text('{"epo')
    assert checkpoints.load().epoch == 1  # type: ignore[union-attr]
