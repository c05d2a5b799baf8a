"""Tune's schedulers, told by the ledger, judge as if the driver had never been lost."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.contract.trial import TrialState
from vicreg_platform.specs import SweepSpec, parse_spec
from vicreg_workers.failures import InfrastructureFailure
from vicreg_workers.sweep.driver import _scheduler, _Trials
from vicreg_workers.sweep.driver import sweep as run_sweep
from vicreg_workers.sweep.ledger import Entry, Ledger


def sweep(**changes: Any) -> SweepSpec:
    request = {
        "kind": "sweep",
        "base": {"data": {"source": "digits"}, "training": {"epochs": 8}},
        "space": {"method.variance": {"uniform": [1, 25]}},
    }
    spec = parse_spec(request | changes)
    assert isinstance(spec, SweepSpec)
    return spec


class Judging:
    """A sweep's driver, as far as its scheduler goes."""

    def __init__(self, spec: SweepSpec, folder: Path) -> None:
        self.ledger = Ledger(str(folder), "sweep", spec.objective)
        quiet: Any = SimpleNamespace(changed=lambda entry: None)
        trials = _Trials(SimpleNamespace(), spec, self.ledger, quiet)  # type: ignore[arg-type]
        self.scheduler: Any = _scheduler(spec, self.ledger, trials)

    def train(self, number: int, *values: float) -> TrialState:
        """A trial with such a curve; how it ended."""
        self.ledger.add(Entry(number=number, parameters={}, epochs=8))
        trial = SimpleTrial(number)
        self.scheduler.on_trial_add(None, trial)
        for epoch, value in enumerate(values, start=1):
            result = {"epoch": epoch, "objective": value, "run_id": "run"}
            decision = self.scheduler.on_trial_result(None, trial, result)
            if decision == TrialScheduler.STOP:
                self.ledger.end(number, TrialState.STOPPED)
                return TrialState.STOPPED
        self.ledger.end(number, TrialState.SUCCEEDED)
        return TrialState.SUCCEEDED


class SimpleTrial:
    def __init__(self, number: int) -> None:
        self.trial_id = f"trial-{number}"
        self.config = {"number": number}
        self.status = "RUNNING"


@pytest.mark.parametrize(
    "scheduler",
    [
        {"name": "asha", "grace_epochs": 1, "reduction_factor": 2},
        {"name": "median", "grace_epochs": 2, "min_trials": 2},
    ],
)
@pytest.mark.parametrize("mode", ["max", "min"])
def test_what_is_behind_ends_early_also_under_a_new_driver(
    tmp_path: Path, scheduler: dict[str, Any], mode: str
) -> None:
    sign = 1.0 if mode == "max" else -1.0
    objective = {"metric": "knn/top1", "mode": mode}
    spec = sweep(scheduler=scheduler, objective=objective)
    good, bad = [sign * value for value in (0.5, 0.6, 0.7, 0.8)], [sign * 0.1] * 4
    first = Judging(spec, tmp_path)
    assert first.train(0, *good) is TrialState.SUCCEEDED
    assert first.train(1, *good) is TrialState.SUCCEEDED
    # Without the ledger's past, the first trial of a driver has nothing to be behind.
    assert Judging(spec, tmp_path / "other").train(2, *bad) is TrialState.SUCCEEDED
    assert Judging(spec, tmp_path).train(2, *bad) is TrialState.STOPPED
    assert Judging(spec, tmp_path).train(3, *good) is TrialState.SUCCEEDED


def test_fifo_ends_nothing(tmp_path: Path) -> None:
    spec = sweep(scheduler={"name": "fifo"})
    judging = Judging(spec, tmp_path)
    assert judging.train(0, 0.5, 0.9) is TrialState.SUCCEEDED
    assert judging.train(1, 0.1, 0.1) is TrialState.SUCCEEDED


def test_a_failure_stops_its_trial_and_is_no_measure_for_others(tmp_path: Path) -> None:
    judging = Judging(sweep(scheduler={"name": "median", "min_trials": 1}), tmp_path)
    judging.ledger.add(Entry(number=0, parameters={}, epochs=8))
    failed = SimpleTrial(0)
    judging.scheduler.on_trial_add(None, failed)
    result = {"epoch": 0, "failure": "diverged", "reason": "the loss is nan", "run_id": "run"}
    assert judging.scheduler.on_trial_result(None, failed, result) == TrialScheduler.STOP
    judging.scheduler.on_trial_complete(None, failed, result)
    assert judging.ledger[0].reason == "the loss is nan"
    assert judging.train(1, 0.1, 0.2) is TrialState.SUCCEEDED


def test_best_counts_the_whole_curve_and_last_its_end(tmp_path: Path) -> None:
    for value, expected in (("best", 0.9), ("last", 0.3)):
        spec = sweep(objective={"metric": "knn/top1", "value": value}, scheduler={"name": "fifo"})
        judging = Judging(spec, tmp_path / value)
        judging.train(0, 0.2, 0.9, 0.3)
        assert judging.ledger[0].objective == expected


@pytest.mark.parametrize("drops", [1, 99])
def test_a_trial_that_tune_drops_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drops: int
) -> None:
    """Tune says nothing of a trial whose process could not be had for it."""
    fits: list[int] = []

    def fit(assignment: Assignment, spec: SweepSpec, ledger: Ledger, trials: _Trials) -> None:
        fits.append(trials.left())
        while (drawn := trials.suggest(f"{len(fits)}")) != Searcher.FINISHED:
            trials.report(drawn["number"], {"epoch": 8, "objective": 0.5, "run_id": "run"})
            if drawn["number"] == 1 and len(fits) <= drops:
                return
            trials.on_trial_complete(f"{len(fits)}")

    monkeypatch.setattr("vicreg_workers.sweep.driver._fit", fit)
    monkeypatch.setattr("vicreg_workers.sweep.driver.ray.init", lambda **_: None)
    quiet: Any = SimpleNamespace(changed=lambda entry: None)
    monkeypatch.setattr("vicreg_workers.sweep.driver.SweepRun", lambda *_: nullcontext(quiet))
    spec = sweep(
        space={"method.variance": {"grid": [1, 5, 25]}},
        search={"algorithm": "grid", "trials": 3},
        scheduler={"name": "fifo"},
    )
    assignment = Assignment(
        job_id="sweep", attempt=1, spec=spec, run_id="run", tracking_uri="",
        storage=str(tmp_path), data_root="",
    )  # fmt: skip
    if drops > 1:
        with pytest.raises(InfrastructureFailure, match="1 trials could not be run"):
            run_sweep(assignment)
        return
    run_sweep(assignment)
    ledger = Ledger(str(tmp_path), "sweep", spec.objective)
    assert [entry.state for entry in ledger] == [TrialState.SUCCEEDED] * 3
    assert [entry.starts for entry in ledger] == [1, 2, 1]
    assert fits == [3, 2]
