"""``vicreg replay``: a job that diverged has its step in its folder, and a command repeats it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from tests.unit.selfsup.data.test_sources import make_folder, under
from tests.unit.selfsup.processes import Gloo
from tests.unit.selfsup.test_replay import weights_of
from tests.unit.selfsup.test_train import spec_for
from vicreg_platform.cli import commands
from vicreg_platform.contract.assignment import Assignment
from vicreg_workers import replay
from vicreg_workers.checkpoints import Checkpoints
from vicreg_workers.pretrain.context import RunContext
from vicreg_workers.selfsup import train
from vicreg_workers.selfsup.capture import CAPTURE
from vicreg_workers.selfsup.data.sources import open_images
from vicreg_workers.selfsup.data.training_batches import Batch
from vicreg_workers.selfsup.distributed import rank
from vicreg_workers.selfsup.errors import Diverged, Unreachable
from vicreg_workers.selfsup.loss.methods import Losses
from vicreg_workers.selfsup.train import Pretraining

CPU = torch.device("cpu")
REPEATS = "; `vicreg replay a` repeats the step"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_folder(tmp_path / "set", classes=2, images=9)
    return tmp_path


def diverge(
    root: Path,
    storage: Path,
    workers: int = 1,
    report: Callable[[dict[str, Any]], None] | None = None,
    kind: type[Pretraining] = Pretraining,
) -> str:
    """The reason of a job that diverges at its first step."""
    spec = spec_for(epochs=2, workers=workers)
    assignment = Assignment(
        job_id="a", attempt=1, spec=spec, run_id="run", tracking_uri="", storage=str(storage),
        data_root="",
    )  # fmt: skip
    checkpoints = Checkpoints(str(root / "checkpoints"), "a", keep=2)
    context = RunContext(assignment, checkpoints, None, CPU, 0, lambda: False, report)
    pretraining = kind(spec, open_images(spec.data, under(root)), context)
    weights_of("backbone.layer3.0.conv2.weight", 3e38)(pretraining)
    with pytest.raises(Diverged) as raised:
        pretraining.run()
    return str(raised.value)


def replayed(
    monkeypatch: pytest.MonkeyPatch, storage: Path, *options: str, job: str = "a"
) -> str | int | None:
    """Runs the command of the workers; how it ended."""
    monkeypatch.setattr("sys.argv", ["replay", job, f"--storage={storage}", *options])
    try:
        replay.main()
    except SystemExit as ended:
        return ended.code
    return None


def test_a_job_that_diverged_is_repeated_from_its_folder_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    reason = diverge(root, root / "storage")
    assert "at step 1 (" in reason
    assert reason.endswith(REPEATS)
    for image in (root / "set").rglob("*.png"):
        image.unlink()
    monkeypatch.setattr("sys.argv", ["vicreg", "replay", "a", "--storage", str(root / "storage")])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "step 1, trained on cpu in fp32 by 1 worker, repeated on cpu"
    last = "the first tensor that is not finite is the output of backbone.layer3.0.conv2 (forward):"
    assert lines[-1].startswith(last)
    # Ten modules before it.
    heading = next(number for number, line in enumerate(lines) if line.startswith("before it"))
    assert lines[heading + 10].startswith("backbone.layer3.0.relu (forward)")
    assert lines[heading + 11] == ""


def test_two_workers_leave_one_file_and_say_the_same(two_processes: Gloo, root: Path) -> None:
    first, second = two_processes.run(diverge, root, root / "storage", 2)
    assert first == second
    assert first.endswith(REPEATS)
    assert [file.name for file in (root / "storage" / "a").iterdir()] == [CAPTURE]


def test_a_step_that_cannot_be_kept_is_a_warning_beside_the_divergence(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "storage").write_text("a file: no folder can be made in it")
    reason = diverge(root, root / "storage")
    assert "at step 1 (" in reason
    assert "replay" not in reason
    (warning,) = (each.message for each in caplog.records if "cannot be kept" in each.message)
    assert str(root / "storage") in warning


class Unreadable(Pretraining):
    """Cannot make the batch again on the second worker."""

    def check(self, losses: Losses) -> bool:
        if rank() == 1:
            self.batches.epoch = unreadable  # type: ignore[method-assign]
        return super().check(losses)


def unreadable(epoch: int, start: int = 0) -> Iterator[Batch]:
    raise Unreachable("the images are gone")


def test_a_batch_that_one_worker_cannot_make_again_is_a_warning(
    two_processes: Gloo, root: Path
) -> None:
    """The other one does not wait for its part."""
    first, second = two_processes.run(diverge, root, root / "storage", 2, None, Unreadable)
    assert first == second
    assert "at step 1 (" in first
    assert "replay" not in first
    assert not (root / "storage").exists()


class WithoutMemory(Pretraining):
    """Has no memory for the batch of all workers on the second one."""

    def check(self, losses: Losses) -> bool:
        if rank() == 0:
            return super().check(losses)
        with patch.object(train, "room_for", without_memory):
            return super().check(losses)


def without_memory(part: Tensor) -> Tensor:
    raise torch.OutOfMemoryError("out of memory")


def test_a_batch_that_one_worker_has_no_memory_for_is_a_warning(
    two_processes: Gloo, root: Path
) -> None:
    """The other one does not wait for it."""
    first, second = two_processes.run(diverge, root, root / "storage", 2, None, WithoutMemory)
    assert first == second
    assert "at step 1 (" in first
    assert "replay" not in first
    assert not (root / "storage").exists()


def test_a_trial_of_a_sweep_leaves_nothing(root: Path) -> None:
    reason = diverge(root, root / "storage", report=lambda _: None)
    assert "replay" not in reason
    assert not (root / "storage").exists()


def test_a_job_without_a_capture_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert replayed(monkeypatch, root) == (
        f"job a has no capture.pt in {root}: a pretraining leaves one when its loss or gradient is "
        "not finite"
    )


def test_a_file_that_is_no_capture_is_one_sentence(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "a").mkdir()
    (root / "a" / CAPTURE).write_bytes(b"nothing")
    message = replayed(monkeypatch, root)
    assert str(message).startswith(f"{root}/a/capture.pt: it is damaged, or not a capture")
    assert "\n" not in str(message)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_one_sentence(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverge(root, root / "storage")
    message = replayed(monkeypatch, root / "storage", "--device=cuda")
    assert "finds no GPU here: use --device cpu" in str(message)
