"""A job that retries another starts from that one's state."""

from pathlib import Path

import torch

from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.specs import parse_spec
from vicreg_workers.checkpoints import Checkpoints
from vicreg_workers.pretrain.context import UNSENT, RunContext
from vicreg_workers.selfsup.context import State


def context(storage: Path, job: str, *resume_from: str) -> RunContext:
    assignment = Assignment(
        job_id=job,
        attempt=1,
        spec=parse_spec({"kind": "pretrain", "data": {"source": "digits"}}),
        run_id="run",
        resume_from=resume_from,
        tracking_uri="",
        storage=str(storage),
        data_root="",
    )
    checkpoints = Checkpoints(str(storage), job, keep=2)
    return RunContext(assignment, checkpoints, None, torch.device("cpu"), 0, lambda: False)


def test_a_retry_of_a_retry_still_starts_from_the_last_checkpoint(tmp_path: Path) -> None:
    first = context(tmp_path, "a")
    assert first.restore() is None
    first.save(State(3, {"weights": torch.ones(2)}, {UNSENT: [("train/loss", 1.0, 1, 1)]}))
    assert context(tmp_path, "b", "a").restore().step == 3  # type: ignore[union-attr]
    # b saved nothing before it was retried, and a's unsent points remain a's.
    state = context(tmp_path, "c", "b").restore()
    assert state is not None
    assert state.step == 3
    # d was never started: what retries it knows all that it retried.
    state = context(tmp_path, "e", "d", "c", "b", "a").restore()
    assert state is not None
    assert state.step == 3
    assert UNSENT not in state.own
