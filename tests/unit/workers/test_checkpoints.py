"""A checkpoint is loaded only if it is complete and intact."""

from pathlib import Path

import torch

from vicreg_workers.checkpoints import Checkpoints
from vicreg_workers.selfsup.context import State


def state(step: int) -> State:
    return State(step, {"weights": torch.full((3,), float(step))}, {"draws": step})


def folders(storage: Path) -> list[str]:
    return sorted(entry.name for entry in (storage / "job" / "checkpoints").iterdir())


def test_the_newest_checkpoint_is_loaded(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), "job", keep=2)
    assert checkpoints.load() is None
    for step in (1, 2):
        checkpoints.save(state(step))
    loaded = Checkpoints(str(tmp_path), "job", keep=2).load()
    assert loaded is not None
    assert (loaded.step, loaded.own) == (2, {"draws": 2})
    assert torch.equal(loaded.shared["weights"], torch.full((3,), 2.0))


def test_old_checkpoints_are_removed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), "job", keep=2)
    for step in range(1, 5):
        checkpoints.save(state(step))
    assert folders(tmp_path) == ["step-00000003", "step-00000004"]


def test_an_unfinished_checkpoint_is_ignored(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), "job", keep=3)
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    (tmp_path / "job/checkpoints/step-00000002/manifest.json").unlink()
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded.step == 1
    checkpoints.save(state(2))  # the rest of it does no harm
    assert checkpoints.load().step == 2  # type: ignore[union-attr]


def test_a_damaged_file_is_detected_and_an_older_checkpoint_loaded(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), "job", keep=3)
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    file = tmp_path / "job/checkpoints/step-00000002/shared.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    assert checkpoints.load().step == 1  # type: ignore[union-attr]


def test_checkpoints_work_on_an_object_store(tmp_path: Path) -> None:
    del tmp_path
    storage = "memory://bucket/vicreg"
    checkpoints = Checkpoints(storage, "job", keep=1)
    for step in (1, 2):
        checkpoints.save(state(step))
    loaded = Checkpoints(storage, "job", keep=1).load()
    assert loaded is not None
    assert loaded.step == 2
    name, files = checkpoints.last_files()  # type: ignore[misc]
    assert name == "step-00000002"
    assert set(files) == {"shared.pt", "worker-0.pt", "manifest.json"}


def test_a_checkpoint_with_a_damaged_manifest_is_ignored(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), "job", keep=3)
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    (tmp_path / "job/checkpoints/step-00000002/manifest.json").write_text('{"epo')
    assert checkpoints.load().step == 1  # type: ignore[union-attr]
