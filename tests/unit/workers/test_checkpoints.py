"""A checkpoint is written while the training continues, and loaded only if it is intact."""

import json
import multiprocessing
import shutil
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.selfsup.processes import PRELOADED, Gloo
from tests.unit.workers.watched import watching
from vicreg_platform.contract.checkpoint import MOST_TOLD, CheckpointReport
from vicreg_workers.checkpoints import Checkpoints
from vicreg_workers.failures import InfrastructureFailure
from vicreg_workers.selfsup.context import State
from vicreg_workers.selfsup.distributed import barrier, rank


def state(step: int, draws: int | None = None) -> State:
    own = {"draws": step if draws is None else draws}
    return State(step, {"weights": torch.full((3,), float(step))}, own)


def save(checkpoints: Checkpoints, *steps: int) -> None:
    for step in steps:
        checkpoints.save(state(step))
    checkpoints.finish()


def watched(storage: Path, keep: int = 3) -> Checkpoints:
    return Checkpoints(f"watched://{storage}", "job", keep)


def loaded_step(storage: Path) -> int | None:
    loaded = Checkpoints(str(storage), "job", keep=3).load()
    return None if loaded is None else loaded.step


def folder_of(storage: Path, step: int) -> Path:
    return storage / "job" / "checkpoints" / f"step-{step:08d}"


def folders(storage: Path) -> list[str]:
    return sorted(entry.name for entry in (storage / "job" / "checkpoints").iterdir())


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


def test_the_newest_checkpoint_is_loaded(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), "job", keep=2)
    assert checkpoints.load() is None
    save(checkpoints, 1, 2)
    loaded = Checkpoints(str(tmp_path), "job", keep=2).load()
    assert loaded is not None
    assert (loaded.step, loaded.own) == (2, {"draws": 2})
    assert torch.equal(loaded.shared["weights"], torch.full((3,), 2.0))


def test_the_layout_on_disk(tmp_path: Path) -> None:
    save(Checkpoints(str(tmp_path), "job", keep=2), 44)
    folder = folder_of(tmp_path, 44)
    assert {file.name for file in folder.iterdir()} == {"manifest.json", "shared.pt", "worker-0.pt"}
    manifest = json.loads((folder / "manifest.json").read_text())
    contents = {name: (folder / name).read_bytes() for name in ("shared.pt", "worker-0.pt")}
    assert datetime.fromisoformat(manifest.pop("saved_at")).tzinfo is not None
    assert manifest == {
        "step": 44,
        "workers": 1,
        "files": {
            name: {"bytes": len(content), "crc32": zlib.crc32(content)}
            for name, content in contents.items()
        },
    }


def test_old_checkpoints_are_removed_and_so_are_unfinished_ones(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), "job", keep=2)
    save(checkpoints, 1)
    (folder_of(tmp_path, 1) / "manifest.json").unlink()
    save(checkpoints, 2, 3)
    assert folders(tmp_path) == ["step-00000002", "step-00000003"]
    save(checkpoints, 4)
    assert folders(tmp_path) == ["step-00000003", "step-00000004"]


def test_an_unfinished_checkpoint_is_ignored(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), "job", keep=3)
    save(checkpoints, 1, 2)
    (folder_of(tmp_path, 2) / "manifest.json").unlink()
    assert loaded_step(tmp_path) == 1
    save(checkpoints, 2)  # the rest of it does no harm
    assert loaded_step(tmp_path) == 2


@pytest.mark.parametrize("file", ["shared.pt", "worker-0.pt"])
@pytest.mark.parametrize("fault", [damage, Path.unlink])
def test_a_damaged_file_is_detected_and_an_older_checkpoint_loaded(
    tmp_path: Path, file: str, fault: Callable[[Path], None]
) -> None:
    checkpoints = Checkpoints(str(tmp_path), "job", keep=3)
    save(checkpoints, 1, 2)
    fault(folder_of(tmp_path, 2) / file)
    assert loaded_step(tmp_path) == 1
    name, _ = checkpoints.last_files()  # type: ignore[misc]
    assert name == "step-00000001"


def test_checkpoints_work_on_an_object_store(tmp_path: Path) -> None:
    del tmp_path
    storage = "memory://bucket/vicreg"
    checkpoints = Checkpoints(storage, "job", keep=1)
    save(checkpoints, 1, 2)
    loaded = Checkpoints(storage, "job", keep=1).load()
    assert loaded is not None
    assert loaded.step == 2
    name, files = checkpoints.last_files()  # type: ignore[misc]
    assert name == "step-00000002"
    assert set(files) == {"shared.pt", "worker-0.pt", "manifest.json"}


@pytest.mark.parametrize("content", ['{"epo', "[]", '{"step": 2, "workers": 1, "files": {}}'])
def test_a_checkpoint_with_a_damaged_manifest_is_ignored(tmp_path: Path, content: str) -> None:
    save(Checkpoints(str(tmp_path), "job", keep=3), 1, 2)
    (folder_of(tmp_path, 2) / "manifest.json").write_text(content)
    assert loaded_step(tmp_path) == 1


def test_it_is_told_which_checkpoints_there_are(tmp_path: Path) -> None:
    told: list[CheckpointReport] = []
    before = datetime.now(UTC)
    checkpoints = Checkpoints(str(tmp_path), "job", keep=2, tell=told.append)
    assert checkpoints.load() is None
    save(checkpoints, 1, 2, 3)
    steps = [[each.step for each in report.checkpoints] for report in told]
    assert steps == [[], [1], [1, 2], [2, 3]]  # not what has been pruned
    assert {report.folder for report in told} == {f"{tmp_path}/job/checkpoints"}
    newest = told[-1].checkpoints[-1]
    files = [file for file in folder_of(tmp_path, 3).iterdir() if file.suffix == ".pt"]
    assert newest.size == sum(file.stat().st_size for file in files)
    assert newest.workers == 1
    assert newest.saved_at is not None
    assert before <= newest.saved_at <= datetime.now(UTC)
    # The next attempt tells what it finds, as it was saved.
    Checkpoints(str(tmp_path), "job", keep=2, tell=told.append).load()
    assert told[-1] == told[-2]
    # Someone has emptied the storage meanwhile.
    shutil.rmtree(tmp_path / "job")
    Checkpoints(str(tmp_path), "job", keep=2, tell=told.append).load()
    assert (told[-1].checkpoints, told[-1].total) == ((), 0)


def test_a_checkpoint_that_replaces_a_damaged_one_is_told_anew(tmp_path: Path) -> None:
    told: list[CheckpointReport] = []
    save(Checkpoints(str(tmp_path), "job", keep=2), 1, 2)
    damage(folder_of(tmp_path, 2) / "shared.pt")
    resumed = Checkpoints(str(tmp_path), "job", keep=2, tell=told.append)
    assert resumed.load().step == 1  # type: ignore[union-attr]
    save(resumed, 2)
    before, after = (report.checkpoints[-1] for report in told)
    assert (before.step, after.step) == (2, 2)
    assert before.saved_at is not None
    assert after.saved_at is not None
    assert before.saved_at < after.saved_at


@pytest.mark.parametrize("changes", [{"saved_at": "2026-11-28T12:00:00"}, {"step": -1}])
def test_what_cannot_be_told_stops_no_training(tmp_path: Path, changes: dict[str, Any]) -> None:
    save(Checkpoints(str(tmp_path), "job", keep=2), 1, 2)
    manifest = folder_of(tmp_path, 1) / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))
    told: list[CheckpointReport] = []
    resumed = Checkpoints(str(tmp_path), "job", keep=2, tell=told.append)
    loaded = resumed.load()
    assert loaded is not None
    assert loaded.step == 2
    assert [each.step for each in told[-1].checkpoints] == [2]

    def fail(_: CheckpointReport) -> None:
        raise OSError("the store does not answer")

    failing = Checkpoints(str(tmp_path), "job", keep=2, tell=fail)
    save(failing, 3)
    assert failing.names()[-1] == "step-00000003"


def test_of_many_checkpoints_the_newest_are_told(tmp_path: Path) -> None:
    told: list[CheckpointReport] = []
    checkpoints = Checkpoints(str(tmp_path), "job", keep=1000, tell=told.append)
    save(checkpoints, *range(1, MOST_TOLD + 4))
    assert told[-1].total == MOST_TOLD + 3
    assert [each.step for each in told[-1].checkpoints] == list(range(4, MOST_TOLD + 4))
    largest = told[-1].checkpoints[-1].model_copy(update={"size": 10**13, "step": 10**8})
    full = CheckpointReport(folder="s" * 4096, checkpoints=(largest,) * MOST_TOLD, total=1000)
    assert len(full.model_dump_json()) < 8000  # where MLflow cuts a tag


def test_the_training_continues_while_the_storage_hangs(tmp_path: Path) -> None:
    checkpoints = watched(tmp_path)
    training = state(1)
    with watching(held="shared.pt") as watch:
        checkpoints.save(training)
        watch.holding.wait()
        training.shared["weights"].fill_(7.0)
        training.own["draws"] = 7
        assert checkpoints.names() == []
        assert checkpoints.saved_at is None
        watch.released.set()
        checkpoints.finish()
    loaded = checkpoints.load()
    assert loaded is not None
    assert (loaded.shared["weights"].tolist(), loaded.own) == ([1.0, 1.0, 1.0], {"draws": 1})


def test_the_next_save_waits_for_the_last(tmp_path: Path) -> None:
    waiting = threading.Event()
    found: list[list[str]] = []

    class Noticed(Checkpoints):
        def finish(self) -> None:
            waiting.set()
            super().finish()

    checkpoints = Noticed(f"watched://{tmp_path}", "job", keep=3)

    def save_again() -> None:
        checkpoints.save(state(2))
        found.append(checkpoints.names())
        waiting.set()

    with watching(held="step-00000001/shared.pt") as watch:
        checkpoints.save(state(1))
        watch.holding.wait()
        waiting.clear()
        second = threading.Thread(target=save_again)
        second.start()
        waiting.wait()
        watch.released.set()
        second.join()
    assert found[0][0] == "step-00000001"
    checkpoints.finish()
    assert checkpoints.names() == ["step-00000001", "step-00000002"]


@pytest.mark.parametrize("waits", ["load", "last_files", "end"])
def test_what_reads_checkpoints_waits_for_the_one_being_written(tmp_path: Path, waits: str) -> None:
    with watched(tmp_path) as checkpoints, watching(held="shared.pt") as watch:
        checkpoints.save(state(1))
        watch.holding.wait()
        threading.Thread(target=watch.released.set).start()
        if waits == "load":
            assert checkpoints.load().step == 1  # type: ignore[union-attr]
        elif waits == "last_files":
            assert checkpoints.last_files()[0] == "step-00000001"  # type: ignore[index]
    assert checkpoints.names() == ["step-00000001"]


def test_a_full_disk_is_reported_by_the_next_save_and_the_checkpoint_before_kept(
    tmp_path: Path,
) -> None:
    checkpoints = watched(tmp_path)
    save(checkpoints, 1)
    saved_at = checkpoints.saved_at
    with watching(full="step-00000002/shared.pt"):
        checkpoints.save(state(2))
        message = "worker 0 cannot write the checkpoint .*step-00000002: .*No space left"
        with pytest.raises(InfrastructureFailure, match=message):
            checkpoints.save(state(3))
    assert checkpoints.saved_at == saved_at
    assert loaded_step(tmp_path) == 1
    # What was half written is not left on the full disk.
    assert [file.name for file in folder_of(tmp_path, 2).iterdir()] == ["worker-0.pt"]
    save(checkpoints, 3)  # there is room again
    assert loaded_step(tmp_path) == 3


def save_until_killed(storage: Path, pipe: Connection) -> None:
    checkpoints = watched(storage)
    save(checkpoints, 1)
    with watching(held="shared.pt") as watch:
        checkpoints.save(state(2))
        watch.holding.wait()
        pipe.send("writing")
        pipe.recv()


def test_a_run_killed_while_it_writes_has_the_checkpoint_before(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    ours, theirs = context.Pipe()
    process = context.Process(target=save_until_killed, args=(tmp_path, theirs), daemon=True)
    process.start()
    assert ours.recv() == "writing"
    process.kill()
    process.join()
    assert any(file.suffix == ".part" for file in folder_of(tmp_path, 2).iterdir())
    assert loaded_step(tmp_path) == 1


def test_a_file_is_read_once(tmp_path: Path) -> None:
    checkpoints = watched(tmp_path)
    save(checkpoints, 1)
    once = {"manifest.json": 1, "shared.pt": 1, "worker-0.pt": 1}
    with watching() as watch:
        checkpoints.load()
        assert Counter(watch.reads) == once
    with watching() as watch:
        checkpoints.last_files()
        assert Counter(watch.reads) == once


def save_on_each(storage: Path, *steps: int) -> None:
    checkpoints = watched(storage)
    for step in steps:
        checkpoints.save(state(step, draws=10 * step + rank()))
    checkpoints.finish()


def load_on_each(storage: Path) -> tuple[int, int, int, dict[str, int]]:
    with watching() as watch:
        loaded = watched(storage).load()
    assert loaded is not None
    return loaded.step, loaded.workers, loaded.own["draws"], Counter(watch.reads)


def test_each_worker_loads_its_own(two_processes: Gloo, tmp_path: Path) -> None:
    two_processes.run(save_on_each, tmp_path, 1, 2)
    first, second = two_processes.run(load_on_each, tmp_path)
    assert first == (2, 2, 20, {"manifest.json": 1, "shared.pt": 1, "worker-0.pt": 1})
    assert second == (2, 2, 21, {"shared.pt": 1, "worker-1.pt": 1})


@pytest.mark.parametrize("file", ["shared.pt", "worker-0.pt", "worker-1.pt"])
def test_a_file_damaged_for_one_worker_is_so_for_all(
    two_processes: Gloo, tmp_path: Path, file: str
) -> None:
    two_processes.run(save_on_each, tmp_path, 1, 2)
    damage(folder_of(tmp_path, 2) / file)
    loaded = two_processes.run(load_on_each, tmp_path)
    assert [(step, draws) for step, _, draws, _ in loaded] == [(1, 10), (1, 11)]
    # One worker alone would not load the second's file, but checks it.
    assert load_on_each(tmp_path)[0] == 1


def test_more_workers_than_saved_load_the_first_ones(two_processes: Gloo, tmp_path: Path) -> None:
    save_on_each(tmp_path, 1)
    loaded = two_processes.run(load_on_each, tmp_path)
    assert [(step, workers, draws) for step, workers, draws, _ in loaded] == [(1, 1, 10)] * 2


def fill_the_disk_of_one(storage: Path, worker: int, file: str) -> str:
    checkpoints = watched(storage)
    save(checkpoints, 1)
    with watching(full=f"step-00000002/{file}" if rank() == worker else ""):
        checkpoints.save(state(2))
        try:
            checkpoints.finish()
        except InfrastructureFailure as failure:
            return str(failure)
    return ""


@pytest.mark.parametrize(
    ("worker", "file"), [(0, "shared.pt"), (0, "manifest.json"), (1, "worker-1.pt")]
)
def test_the_full_disk_of_one_worker_is_reported_by_all(
    two_processes: Gloo, tmp_path: Path, worker: int, file: str
) -> None:
    first, second = two_processes.run(fill_the_disk_of_one, tmp_path, worker, file)
    assert first == second
    assert f"worker {worker} cannot write the checkpoint" in first
    assert "step-00000002: OSError: [Errno 28] No space left on device" in first
    assert loaded_step(tmp_path) == 1


def save_over_the_rest_of_a_save(storage: Path) -> bool:
    """Whether the first worker counts the second's file before it is written again."""
    checkpoints = watched(storage)
    with watching(held="worker-1.pt") as watch:
        checkpoints.save(state(2, draws=20 + rank()))
        if rank() == 0:
            for _ in range(5):  # it looks again, after it has seen what is there
                watch.looks.acquire()
            counted = bool(checkpoints.names())
        else:
            watch.holding.wait()
            counted = False
        barrier()
        watch.released.set()
        checkpoints.finish()
    return counted


def test_what_an_earlier_attempt_left_is_not_counted(two_processes: Gloo, tmp_path: Path) -> None:
    # Its second worker had written its file, and its first had not.
    two_processes.run(fill_the_disk_of_one, tmp_path, 0, "shared.pt")
    (folder_of(tmp_path, 1) / "manifest.json").unlink()
    assert list(folder_of(tmp_path, 2).glob("worker-1.*.json"))
    assert two_processes.run(save_over_the_rest_of_a_save, tmp_path) == [False, False]
    loaded = two_processes.run(load_on_each, tmp_path)
    assert [(step, draws) for step, _, draws, _ in loaded] == [(2, 20), (2, 21)]


def lose_patience(storage: Path) -> str:
    checkpoints = watched(storage)
    with watching(held="worker-1.pt") as watch, pytest.MonkeyPatch.context() as patch:
        patch.setattr("vicreg_workers.checkpoints.PATIENCE_SECONDS", 0.0)
        checkpoints.save(state(1))
        if rank() == 0:
            with checkpoints:
                pass  # until it writes and waits no more
        barrier()
        watch.released.set()
        try:
            checkpoints.finish()
        except InfrastructureFailure as failure:
            return str(failure)
    return ""


def test_a_worker_that_does_not_write_is_not_waited_for_forever(
    two_processes: Gloo, tmp_path: Path
) -> None:
    messages: list[Any] = two_processes.run(lose_patience, tmp_path)
    for message in messages:
        assert "TimeoutError: no file of worker 1 within 0 s" in message
    assert loaded_step(tmp_path) is None
