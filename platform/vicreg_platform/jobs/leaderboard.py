"""A sweep's trials, ranked."""

from __future__ import annotations

from vicreg_platform.contract.trial import Trial, TrialState, ranked
from vicreg_platform.errors import InvalidRequest
from vicreg_platform.jobs.schemas import JobSchema, RunSchema, TrialSchema, TrialSort
from vicreg_platform.pages import Page, number_of, page_of
from vicreg_platform.specs import SweepSpec
from vicreg_platform.specs.stored import require_spec
from vicreg_platform.tracking import Tracking


def leaderboard(
    tracking: Tracking,
    mlflow_public_url: str,
    sweep: JobSchema,
    sort: TrialSort = TrialSort.RANK,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[TrialSchema]:
    """A page of a sweep's trials.

    Raises:
        InvalidRequest: the job is not a sweep.
        InvalidSpec: this version cannot read its spec.
    """
    answers = placed_trials(tracking, mlflow_public_url, sweep)
    if sort is TrialSort.NUMBER:
        answers.sort(key=lambda trial: trial.number)
    elif sort is TrialSort.EPOCH:
        answers.sort(key=lambda trial: (-trial.epoch, trial.number))
    start = number_of(cursor) or 0
    rows = list(enumerate(answers[start : start + limit + 1], start=start + 1))
    page = page_of(rows, limit, lambda row: row[0])
    return Page(items=[answer for _, answer in page.items], next_cursor=page.next_cursor)


def placed_trials(
    tracking: Tracking, mlflow_public_url: str, sweep: JobSchema
) -> list[TrialSchema]:
    """All trials of a sweep, best first.

    Raises:
        InvalidRequest: the job is not a sweep.
        InvalidSpec: this version cannot read its spec.
    """
    mode = sweep_spec(sweep).objective.mode
    found = tracking.trials(sweep.mlflow.run_id) if sweep.mlflow else []
    places = {trial.number: RunSchema.of(mlflow_public_url, *ids) for trial, *ids in found}
    return [
        TrialSchema(
            **trial.model_dump(),
            rank=None if trial.objective is None else place,
            stopped_early=trial.state is TrialState.STOPPED,
            mlflow=places[trial.number],
        )
        for place, trial in enumerate(ranked([trial for trial, *_ in found], mode), start=1)
    ]


def best_trial(tracking: Tracking, sweep: JobSchema) -> Trial | None:
    """The best trial; None if no trial has a value of the objective.

    Raises:
        InvalidRequest: the job is not a sweep.
        InvalidSpec: this version cannot read its spec.
    """
    found = tracking.trials(sweep.mlflow.run_id) if sweep.mlflow else []
    order = ranked([trial for trial, *_ in found], sweep_spec(sweep).objective.mode)
    return order[0] if order and order[0].objective is not None else None


def sweep_spec(job: JobSchema) -> SweepSpec:
    """The spec of a sweep.

    Raises:
        InvalidRequest: the job is not a sweep.
        InvalidSpec: this version cannot read its spec.
    """
    if job.kind != "sweep":
        raise InvalidRequest(f"job {job.id} is not a sweep: it has no trials")
    spec = require_spec(job.spec, job.spec_version)
    assert isinstance(spec, SweepSpec)
    return spec
