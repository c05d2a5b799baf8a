"""The trainings of a sweep's trial, one for each of its seeds."""

from __future__ import annotations

from vicreg_platform.contract.trial import TrialState
from vicreg_platform.errors import InvalidRequest, NotFound
from vicreg_platform.jobs.leaderboard import placed_trials
from vicreg_platform.jobs.schemas import JobSchema, RunSchema, TrainingSchema, TrialDetail
from vicreg_platform.tracking import Tracking, Training

_STATES = {
    "RUNNING": TrialState.RUNNING,
    "FAILED": TrialState.FAILED,
    "KILLED": TrialState.CANCELLED,
}


def trial_of(
    tracking: Tracking, mlflow_public_url: str, sweep: JobSchema, number: int
) -> TrialDetail:
    """A trial with its trainings.

    Raises:
        InvalidRequest: the job is not a sweep.
        NotFound: it has no such trial, or none yet.
    """
    trials = placed_trials(tracking, mlflow_public_url, sweep)
    trial = next((each for each in trials if each.number == number), None)
    if trial is None:
        raise NotFound(f"sweep {sweep.id} has no trial {number}: `trials` lists those that began")
    trainings = [
        TrainingSchema(
            seed=each.seed,
            state=_state(each, trial.epochs),
            progress=each.reading.progress,
            summary=each.reading.metrics,
            mlflow=RunSchema.of(mlflow_public_url, each.run_id, each.experiment_id),
        )
        for each in _trainings(tracking, sweep, number)
    ]
    return TrialDetail(**trial.model_dump(), trainings=trainings)


def run_of_seed(tracking: Tracking, sweep: JobSchema, number: int, seed: int | None) -> str:
    """The run of a trial's training.

    Args:
        tracking: where the runs are.
        sweep: the trial's.
        number: the trial's.
        seed: the training's; None for the first.

    Raises:
        InvalidRequest: the job is not a sweep.
        NotFound: there is no such trial, or it has not begun with that seed.
    """
    if sweep.kind != "sweep":
        raise InvalidRequest(f"job {sweep.id} is not a sweep: it has no trials")
    for each in _trainings(tracking, sweep, number):
        if seed is None or each.seed == seed:
            return each.run_id
    of_seed = "" if seed is None else f" of seed {seed}"
    raise NotFound(f"trial {number} of sweep {sweep.id} has no training{of_seed} yet")


def _trainings(tracking: Tracking, sweep: JobSchema, number: int) -> list[Training]:
    return tracking.trainings(sweep.mlflow.run_id, number) if sweep.mlflow else []


def _state(training: Training, epochs: int) -> TrialState:
    # MLflow has one word for a training that was stopped early and one that has ended.
    progress = training.reading.progress
    whole = progress is not None and progress.epoch >= epochs
    return _STATES.get(training.status, TrialState.SUCCEEDED if whole else TrialState.STOPPED)
