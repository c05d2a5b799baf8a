"""A job saves its state behind its training's back, and starts from that of the one it retries."""

import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch

from tests.unit.workers.watched import watching
from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.contract.progress import Progress
from vicreg_platform.specs import JobEncoder, PretrainSpec, parse_spec
from vicreg_workers.checkpoints import Checkpoints
from vicreg_workers.encoder import load_encoder
from vicreg_workers.pretrain.context import UNSENT, RunContext
from vicreg_workers.selfsup.context import State, TrainingProgress
from vicreg_workers.selfsup.model.backbones import build_backbone
from vicreg_workers.tracking.outbox import Outbox

CPU = torch.device("cpu")
HALF = TrainingProgress(epoch=1, epochs=2, step=3, steps=6, images_per_second=1.0, eta_seconds=3.0)


def assigned(storage: str, job: str, *resume_from: str, **changes: Any) -> Assignment:
    return Assignment(
        job_id=job,
        attempt=1,
        spec=parse_spec({"kind": "pretrain", "data": {"source": "digits"}}),
        run_id="run",
        resume_from=resume_from,
        tracking_uri="",
        storage=storage,
        data_root="",
        **changes,
    )


def context(storage: Path, job: str, *resume_from: str) -> RunContext:
    assignment = assigned(str(storage), job, *resume_from)
    checkpoints = Checkpoints(str(storage), job, keep=2)
    return RunContext(assignment, checkpoints, None, torch.device("cpu"), 0, lambda: False)


def test_a_retry_of_a_retry_still_starts_from_the_last_checkpoint(tmp_path: Path) -> None:
    first = context(tmp_path, "a")
    assert first.restore() is None
    first.save(State(3, {"weights": torch.ones(2)}, {UNSENT: [("train/loss", 1.0, 1, 1)]}))
    first.finish_saving()
    second = context(tmp_path, "b", "a")
    assert second.restore().step == 3  # type: ignore[union-attr]
    second.finish_saving()
    # b saved nothing before it was retried, and a's unsent points remain a's.
    third = context(tmp_path, "c", "b")
    state = third.restore()
    assert state is not None
    assert state.step == 3
    third.finish_saving()
    # d was never started: what retries it knows all that it retried.
    state = context(tmp_path, "e", "d", "c", "b", "a").restore()
    assert state is not None
    assert state.step == 3
    assert UNSENT not in state.own


class Outgoing:
    """Keeps what an outbox would send."""

    def __init__(self) -> None:
        self.last: Progress | None = None

    def unsent(self) -> list[tuple[Any, ...]]:
        return []

    def metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Nothing is sent."""

    def progress(self, progress: Progress) -> None:
        self.last = progress

    def drain(self, seconds: float) -> None:
        """There is nothing to wait for."""


def test_the_state_counts_as_saved_when_it_was_taken_and_only_once_it_is_complete(
    tmp_path: Path,
) -> None:
    storage, outgoing = f"watched://{tmp_path}", Outgoing()
    running = RunContext(
        assigned(storage, "a"),
        Checkpoints(storage, "a", keep=2),
        cast(Outbox, outgoing),
        torch.device("cpu"),
        0,
        lambda: False,
    )
    with watching(held="shared.pt") as watch:
        running.save(State(3, {"weights": torch.ones(2)}, {}))
        taken = datetime.now(UTC)
        watch.holding.wait()
        running.progress(HALF)
        assert outgoing.last is not None
        assert outgoing.last.saved_at is None
        watch.released.set()
        running.finish_saving()
    running.progress(HALF)
    assert outgoing.last.saved_at is not None
    assert outgoing.last.saved_at <= taken


def test_progress_says_from_which_step_on_what_and_with_how_much_memory(tmp_path: Path) -> None:
    def attempt(job: str, *resume_from: str) -> tuple[RunContext, FakeOutbox]:
        outbox = FakeOutbox()
        assignment = assigned(str(tmp_path), job, *resume_from)
        checkpoints = Checkpoints(str(tmp_path), job, keep=2)
        return RunContext(
            assignment, checkpoints, cast(Outbox, outbox), CPU, 0, lambda: False
        ), outbox

    def told(context: RunContext, outbox: FakeOutbox) -> Progress:
        context.restore()
        context.progress(HALF)
        assert outbox.last is not None
        return outbox.last

    first, outbox = attempt("a")
    begun = told(first, outbox)
    assert (begun.resumed_at, begun.device) == (0, "CPU")
    assert begun.peak_memory is not None
    assert begun.peak_memory > 2**20
    first.save(State(3, {"weights": torch.ones(2)}, {}))
    first.finish_saving()
    assert told(*attempt("a")).resumed_at == 3
    retry, outbox = attempt("b", "a")
    assert told(retry, outbox).resumed_at == 3
    retry.finish_saving()


def test_what_a_trial_has_saved_is_complete_when_it_reports(tmp_path: Path) -> None:
    storage = f"watched://{tmp_path}"
    checkpoints = Checkpoints(storage, "a", keep=2)
    complete: list[list[str]] = []
    running = RunContext(
        assigned(storage, "a", objective="knn/top1"),
        checkpoints,
        None,
        torch.device("cpu"),
        0,
        lambda: False,
        report=lambda result: complete.append(checkpoints.names()),
    )
    with watching(held="shared.pt") as watch:
        running.save(State(3, {"weights": torch.ones(2)}, {}))
        watch.holding.wait()
        running.metrics({"knn/top1": 0.5}, 3)
        threading.Thread(target=watch.released.set).start()
        running.epoch_ended(1, 2)
    assert complete == [["step-00000003"]]


def test_kept_encoders_outlive_their_attempt_and_go_to_the_job_that_retries(tmp_path: Path) -> None:
    knn = {"protocol": {"name": "knn"}, "at_epochs": [2, 5]}
    spec = parse_spec({"kind": "pretrain", "data": {"source": "digits"}, "evaluations": [knn]})
    assert isinstance(spec, PretrainSpec)
    backbone = build_backbone(spec.backbone, 32)

    def attempt(job: str, *resume_from: str) -> tuple[RunContext, FakeOutbox]:
        assignment = assigned(str(tmp_path), job, *resume_from).model_copy(update={"spec": spec})
        outbox = FakeOutbox()
        checkpoints = Checkpoints(str(tmp_path), job, keep=2)
        made = RunContext(assignment, checkpoints, cast(Outbox, outbox), CPU, 0, lambda: False)
        return made, outbox

    def last_kept(context: RunContext, outbox: FakeOutbox) -> int | None:
        context.progress(HALF)
        assert outbox.last is not None
        return outbox.last.kept_epoch

    first, outbox = attempt("a")
    assert first.restore() is None
    assert last_kept(first, outbox) is None
    first.keep_encoder(backbone, 2, 70)
    assert last_kept(first, outbox) == 2
    first.save(State(70, {}, {}))
    first.finish_saving()
    again, outbox = attempt("a")
    assert again.restore() is not None
    assert last_kept(again, outbox) == 2
    retry, outbox = attempt("b", "a")
    assert retry.restore() is not None
    assert last_kept(retry, outbox) == 2
    loaded, step = load_encoder(
        JobEncoder(job="b", epoch=2), 32, None, "http://nowhere", tmp_path, str(tmp_path)
    )
    assert step == 70
    weights = backbone.state_dict()
    assert torch.equal(loaded.state_dict()["conv1.weight"], weights["conv1.weight"])


def test_what_the_last_measurement_finds_is_told(tmp_path: Path) -> None:
    """No progress follows it."""
    outbox = FakeOutbox()
    checkpoints = Checkpoints(str(tmp_path), "a", keep=2)
    sender = cast(Outbox, outbox)
    made = RunContext(assigned(str(tmp_path), "a"), checkpoints, sender, CPU, 0, lambda: False)
    made.finding("collapsed", "early")  # before there is any
    made.progress(HALF)
    assert outbox.last is not None
    assert [finding.text for finding in outbox.last.findings] == ["early"]
    made.finding("worse_than_start", "it is")
    assert [finding.name for finding in outbox.last.findings] == ["collapsed", "worse_than_start"]
    made.finding("collapsed", None)
    assert [finding.name for finding in outbox.last.findings] == ["worse_than_start"]
    assert outbox.last.step == HALF.step


class FakeOutbox:
    """Holds the last progress."""

    last: Progress | None = None

    def progress(self, progress: Progress) -> None:
        self.last = progress

    def unsent(self) -> list[Any]:
        return []

    def restore_unsent(self, points: list[Any]) -> None:
        assert points == []
