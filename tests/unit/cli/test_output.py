"""What tables show."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from rich.text import Text

from vicreg_platform.cli.output import (
    checkpoints_table,
    cost_line,
    job_table,
    jobs_table,
    trials_table,
)
from vicreg_platform.contract.progress import Progress
from vicreg_platform.contract.trial import TrialState
from vicreg_platform.jobs.schemas import (
    AttemptSchema,
    CheckpointSchema,
    CheckpointsSchema,
    CostBasis,
    DryRun,
    JobSchema,
    RunSchema,
    TrainingCost,
    TrialSchema,
)
from vicreg_platform.jobs.states import JobState


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_leaderboard_shows_mean_and_deviation_of_several_seeds(seeds: int) -> None:
    sweep: Any = SimpleNamespace(
        name="search",
        state=JobState.SUCCEEDED,
        progress=None,
        spec={
            "objective": {"metric": "knn/top1"},
            "space": {"method.variance": {}},
            "search": {"trials": 2, "seeds": seeds},
        },
    )
    values = (0.6, 0.7, 0.8)[:seeds]
    best = TrialSchema(
        number=1, state=TrialState.SUCCEEDED, parameters={"method.variance": 5.0}, objective=0.7,
        values=values, std=0.1 if seeds > 1 else None, epoch=4, epochs=4, rank=1,
        stopped_early=False, mlflow=RunSchema.of("", "run", "1"),
    )  # fmt: skip
    stopped = best.model_copy(
        update={"objective": 0.25, "values": (0.25,), "std": None, "rank": 2, "number": 0}
    )
    table = trials_table(sweep, [best, stopped])
    columns = {str(column.header): list(column.cells) for column in table.columns}
    if seeds == 1:
        assert columns["knn/top1"] == ["0.7", "0.25"]
        assert "SEEDS" not in columns
    else:
        assert columns["knn/top1"] == ["0.7 ± 0.1", "0.25"]
        assert columns["SEEDS"] == ["3/3", "1/3"]


def test_a_dry_run_says_what_a_training_would_take_or_that_nobody_knows() -> None:
    cost = TrainingCost(
        seconds=7000.0, basis=CostBasis.RUN, images_per_second=2500.4, workers=2,
        device="NVIDIA H100", peak_memory=3 * 2**30, job="a", name="first",
    )  # fmt: skip
    assert cost_line(DryRun(spec={}, warnings=[], cost=cost)) == (
        "would train for 1 h 57 min (without queue and start) with 2 workers, 3.0 GiB each, "
        "at 2,500 img/s: measured in job a, on NVIDIA H100"
    )
    short = cost.model_copy(
        update={"seconds": 12.4, "basis": CostBasis.RATE, "workers": 1, "peak_memory": None}
    )
    assert cost_line(DryRun(spec={}, warnings=[], cost=short)) == (
        "would train for 12 s (without queue, start, measurements and checkpoints) with 1 worker, "
        "at 2,500 img/s: measured in job a, on NVIDIA H100"
    )
    assert "unknown (no run is known" in cost_line(DryRun(spec={}, warnings=[]))


def test_a_checkpoint_says_where_it_is_and_whether_it_still_is_there() -> None:
    first = CheckpointSchema(step=33, epoch=3.0, size=2_500_000, storage="/s/a", present=False)
    items = [
        first.model_copy(update={"step": 44, "storage": "s3://b/a", "present": None}),
        first,
        CheckpointSchema(step=22, storage="/s/b", present=True, artifact="checkpoints/b"),
    ]
    table = checkpoints_table(CheckpointsSchema(items=items, total=3))
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["STEP"] == ["44", "33", "22"]
    assert columns["SIZE"] == ["2.5 MB", "2.5 MB", ""]
    assert columns["WHERE"] == [
        "s3://b/a (as the workers said last)",
        "/s/a (gone)",
        "/s/b\nMLflow: checkpoints/b",
    ]


@pytest.mark.parametrize(
    ("kind", "shown"), [("pretrain", "3/10"), ("sweep", "3/10"), ("evaluate", "25%")]
)
def test_progress_is_in_epochs_trials_or_images(kind: str, shown: str) -> None:
    progress = SimpleNamespace(epoch=3, epochs=10, step=250, steps=1000)
    job: Any = SimpleNamespace(
        id="a", state=JobState.RUNNING, kind=kind, name="a", experiment="e", reason=None,
        progress=progress,
    )  # fmt: skip
    waiting: Any = SimpleNamespace(**(vars(job) | {"progress": None}))
    columns = {str(each.header): list(each.cells) for each in jobs_table([job, waiting]).columns}
    assert columns["PROGRESS"] == [shown, ""]


def test_an_evaluation_says_how_far_it_is_and_by_how_many_workers() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    attempt = AttemptSchema(
        number=1, submission_id="a-1", created_at=at, submitted_at=None, ended_at=None,
        outcome=None, workers=1, message=None,
    )  # fmt: skip
    progress = Progress(
        epoch=0, epochs=1, step=250, steps=1000, images_per_second=50.0, eta_seconds=15.0
    )
    job = JobSchema(
        id="a", kind="evaluate", name="a", experiment="e", state=JobState.RUNNING, reason=None,
        failure=None, spec={}, labels={}, priority=0, workers=1, depends_on=[], start_after=None,
        deadline=None, retry_of=None, schedule_id=None, owner=None, attempts=[attempt],
        mlflow=None, progress=progress, summary={}, created_at=at, started_at=at, finished_at=None,
    )  # fmt: skip
    names, values = (list(column.cells) for column in job_table(job).columns)
    facts = {Text.from_markup(str(a)).plain: b for a, b in zip(names, values, strict=True)}
    assert facts["workers"] == "1"
    assert facts["progress"] == "25%  50 img/s  ETA 0:15"
    assert facts["attempt 1"] == "live, 1 worker"
