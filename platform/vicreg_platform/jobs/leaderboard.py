"""A sweep's trials, ranked."""

from __future__ import annotations

from vicreg_platform.contract.trial import Trial, TrialState, ranked
from vicreg_platform.errors import InvalidRequest
from vicreg_platform.jobs.schemas import JobView, RunView, TrialPage, TrialSort, TrialView
from vicreg_platform.tracking import Tracking


def leaderboard(
    tracking: Tracking,
    mlflow_public_url: str,
    sweep: JobView,
    sort: TrialSort = TrialSort.RANK,
    limit: int = 50,
    cursor: str | None = None,
) -> TrialPage:
    """A page of a sweep's trials.

    Raises:
        InvalidRequest: the job is no sweep.
    """
    if sweep.kind != "sweep":
        raise InvalidRequest(f"job {sweep.id} is no sweep: it has no trials")
    found = tracking.trials(sweep.mlflow.run_id) if sweep.mlflow else []
    places = {trial.number: RunView.of(mlflow_public_url, *ids) for trial, *ids in found}
    views = [
        TrialView(
            **trial.model_dump(),
            rank=None if trial.objective is None else place,
            stopped_early=trial.state is TrialState.STOPPED,
            mlflow=places[trial.number],
        )
        for place, trial in enumerate(
            ranked([trial for trial, *_ in found], sweep.spec["objective"]["mode"]), start=1
        )
    ]
    if sort is TrialSort.NUMBER:
        views.sort(key=lambda view: view.number)
    elif sort is TrialSort.EPOCH:
        views.sort(key=lambda view: (-view.epoch, view.number))
    start = int(cursor) if cursor is not None and cursor.isdecimal() else 0
    end = start + limit
    return TrialPage(items=views[start:end], next_cursor=str(end) if end < len(views) else None)


def best_trial(tracking: Tracking, sweep: JobView) -> Trial | None:
    """The best trial of those that have a value of the objective."""
    found = tracking.trials(sweep.mlflow.run_id) if sweep.mlflow else []
    order = ranked([trial for trial, *_ in found], sweep.spec["objective"]["mode"])
    return order[0] if order and order[0].objective is not None else None
