"""Trials stop early as under Tune's schedulers, and as if the driver had never been lost."""

import math
import pickle
import random
import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler

from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.contract.timeline import Timeline
from vicreg_platform.contract.trial import TrialState
from vicreg_platform.specs import SweepSpec, parse_spec
from vicreg_workers.failures import InfrastructureFailure
from vicreg_workers.sweep.driver import Errors, Proposals, Reports, Trials
from vicreg_workers.sweep.driver import sweep as run_sweep
from vicreg_workers.sweep.early_stopping import build_early_stopping
from vicreg_workers.sweep.ledger import Entry, Ledger, inherit

QUIET: Any = SimpleNamespace(changed=lambda entry: None)


def sweep(**changes: Any) -> SweepSpec:
    request = {
        "kind": "sweep",
        "base": {"data": {"source": "digits"}, "training": {"epochs": 8}},
        "space": {"method.variance": {"uniform": [1, 25]}},
    }
    spec = parse_spec(request | changes)
    assert isinstance(spec, SweepSpec)
    return spec


def assignment_of(spec: SweepSpec, folder: Path) -> Assignment:
    return Assignment(
        job_id="sweep", attempt=1, spec=spec, run_id="run", tracking_uri="",
        storage=str(folder), data_root="",
    )  # fmt: skip


class Judging:
    """The part of a sweep's driver that Tune's scheduler talks to."""

    def __init__(self, spec: SweepSpec, folder: Path) -> None:
        self.ledger = Ledger(str(folder), "sweep", spec.objective)
        self.scheduler = Reports(Trials(assignment_of(spec, folder), spec, self.ledger, QUIET))

    def report(self, number: int, result: dict[str, Any]) -> str:
        trial = SimpleNamespace(config={"number": number, "seed": 0})
        return self.scheduler.on_trial_result(None, trial, result | {"run_id": "run"})

    def train(self, number: int, *values: float) -> TrialState:
        """Train a trial with this curve; return how it ended."""
        self.ledger.add(Entry(number=number, parameters={}, epochs=8))
        for epoch, value in enumerate(values, start=1):
            decision = self.report(number, {"epoch": epoch, "objective": value})
            if decision == TrialScheduler.STOP:
                self.ledger.end(self.ledger.entry(number), TrialState.STOPPED)
                return TrialState.STOPPED
        self.ledger.end(self.ledger.entry(number), TrialState.SUCCEEDED)
        return TrialState.SUCCEEDED


def tunes(spec: SweepSpec) -> Any:
    """Ray Tune's own scheduler with the spec's settings."""
    chosen: Any = spec.scheduler
    known = {"time_attr": "epoch", "metric": "objective", "mode": spec.objective.mode}
    if chosen.name == "asha":
        return AsyncHyperBandScheduler(
            **known,
            max_t=9,
            grace_period=chosen.grace_epochs,
            reduction_factor=chosen.reduction_factor,
        )
    scheduler = MedianStoppingRule(
        **known, grace_period=chosen.grace_epochs, min_samples_required=chosen.min_trials
    )
    # It would pause a trial that there are too few others for.
    scheduler._on_insufficient_samples = lambda *_: TrialScheduler.CONTINUE
    return scheduler


@pytest.mark.parametrize("value", ["best", "last"])
@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize(
    "scheduler",
    [
        {"name": "asha", "grace_epochs": 1, "reduction_factor": 2},
        {"name": "asha", "grace_epochs": 2, "reduction_factor": 4},
        {"name": "median", "grace_epochs": 2, "min_trials": 2},
    ],
)
def test_every_decision_is_that_of_tunes_scheduler(
    tmp_path: Path, scheduler: dict[str, Any], mode: str, value: str
) -> None:
    objective = {"metric": "knn/top1", "mode": mode, "value": value}
    spec = sweep(scheduler=scheduler, objective=objective)
    ledger = Ledger(str(tmp_path), "sweep", spec.objective)
    rule, reference = build_early_stopping(spec, ledger), tunes(spec)
    generator = random.Random(0)
    qualities = [generator.random() for _ in range(16)]
    waiting, stopped = list(range(16)), 0
    running: dict[int, SimpleTrial] = {}
    while waiting or running:
        while waiting and len(running) < 3:
            number = waiting.pop(0)
            ledger.add(Entry(number=number, parameters={}, epochs=8))
            running[number] = SimpleTrial(number)
            reference.on_trial_add(None, running[number])
        number = generator.choice(list(running))
        entry = ledger.entry(number)
        epoch = entry.epoch + 1
        ledger.report(entry, epoch, qualities[number] + generator.random(), "run")
        score = ledger[number].objective
        expected = reference.on_trial_result(
            None, running[number], {"epoch": epoch, "objective": score}
        )
        assert rule.stops(entry, epoch) is (expected == TrialScheduler.STOP)
        stopped += expected == TrialScheduler.STOP
        if expected == TrialScheduler.STOP or epoch == 8:
            del running[number]
    assert stopped > 3


class SimpleTrial:
    """A trial as Tune's schedulers see one."""

    def __init__(self, number: int) -> None:
        self.trial_id = f"trial-{number}"


@pytest.mark.parametrize(
    "scheduler",
    [
        {"name": "asha", "grace_epochs": 1, "reduction_factor": 2},
        {"name": "median", "grace_epochs": 2, "min_trials": 2},
    ],
)
@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_trial_that_is_behind_stops_early_under_a_new_driver_too(
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


def test_fifo_stops_nothing(tmp_path: Path) -> None:
    spec = sweep(scheduler={"name": "fifo"})
    judging = Judging(spec, tmp_path)
    assert judging.train(0, 0.5, 0.9) is TrialState.SUCCEEDED
    assert judging.train(1, 0.1, 0.1) is TrialState.SUCCEEDED


def test_what_tune_is_given_can_be_pickled(tmp_path: Path) -> None:
    spec = sweep()
    lock: Any = SimpleNamespace(changed=threading.Lock())
    ledger = Ledger(str(tmp_path), "sweep", spec.objective)
    trials = Trials(assignment_of(spec, tmp_path), spec, ledger, lock)
    for given in (Proposals(trials), Reports(trials), Errors(trials)):
        pickle.dumps(given)


def test_a_failure_stops_its_trial_and_does_not_count_for_others(tmp_path: Path) -> None:
    judging = Judging(sweep(scheduler={"name": "median", "min_trials": 1}), tmp_path)
    judging.ledger.add(Entry(number=0, parameters={}, epochs=8))
    result = {"epoch": 0, "failure": "diverged", "reason": "the loss is nan"}
    assert judging.report(0, result) == TrialScheduler.STOP
    assert judging.ledger[0].reason == "the loss is nan"
    assert judging.train(1, 0.1, 0.2) is TrialState.SUCCEEDED


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_objective_that_is_no_number_fails_its_trial_alone(tmp_path: Path, value: float) -> None:
    spec = sweep(scheduler={"name": "median", "min_trials": 1})
    judging = Judging(spec, tmp_path)
    judging.ledger.add(Entry(number=0, parameters={}, epochs=8))
    assert judging.report(0, {"epoch": 1, "objective": 0.5}) == TrialScheduler.CONTINUE
    assert judging.report(0, {"epoch": 2, "objective": value}) == TrialScheduler.STOP
    assert (judging.ledger[0].state, judging.ledger[0].failure) == (TrialState.FAILED, "diverged")
    assert "after epoch 2" in (judging.ledger[0].reason or "")
    assert judging.train(1, 0.5, 0.6) is TrialState.SUCCEEDED
    again = Ledger(str(tmp_path), "sweep", spec.objective)  # another driver reads it all
    assert [entry.number for entry in again] == [0, 1]
    best = again.best()
    assert best is not None
    assert best.number == 1


def test_a_long_reason_fits_into_the_tag_of_its_trial(tmp_path: Path) -> None:
    judging = Judging(sweep(), tmp_path)
    judging.ledger.add(Entry(number=0, parameters={}, epochs=8))
    judging.report(0, {"epoch": 0, "failure": "user", "reason": "x\x00" * 9000})
    assert len(judging.ledger[0].model_dump_json()) < 8000


def test_best_counts_the_whole_curve_and_last_its_end(tmp_path: Path) -> None:
    for value, expected in (("best", 0.9), ("last", 0.3)):
        spec = sweep(objective={"metric": "knn/top1", "value": value}, scheduler={"name": "fifo"})
        judging = Judging(spec, tmp_path / value)
        judging.train(0, 0.2, 0.9, 0.3)
        assert judging.ledger[0].objective == expected


@pytest.mark.parametrize("drops", [1, 99])
def test_a_trial_that_tune_drops_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drops: int
) -> None:
    """Tune does not report a trial that it could not get a process for."""
    fits: list[int] = []

    def fit(assignment: Assignment, spec: SweepSpec, trials: Trials) -> None:
        fits.append(trials.left())
        while (entry := trials.start()) is not None:
            trials.report(entry, {"epoch": 8, "objective": 0.5, "run_id": "run"})
            if entry.number == 1 and len(fits) <= drops:
                return
            trials.end(entry)

    monkeypatch.setattr("vicreg_workers.sweep.driver._fit", fit)
    monkeypatch.setattr("vicreg_workers.sweep.driver.connect", lambda _: None)
    monkeypatch.setattr("vicreg_workers.sweep.driver.Reporter", lambda *_: nullcontext(QUIET))
    spec = sweep(
        space={"method.variance": {"grid": [1, 5, 25]}},
        search={"algorithm": "grid", "trials": 3},
        scheduler={"name": "fifo"},
    )
    assignment = assignment_of(spec, tmp_path)
    if drops > 1:
        with pytest.raises(InfrastructureFailure, match="1 trainings could not be run"):
            run_sweep(assignment, Timeline())
        return
    run_sweep(assignment, Timeline())
    ledger = Ledger(str(tmp_path), "sweep", spec.objective)
    assert [entry.state for entry in ledger] == [TrialState.SUCCEEDED] * 3
    assert [entry.starts for entry in ledger.entries()] == [1, 2, 1]
    assert fits == [3, 2]


class Seeds(Judging):
    """A sweep's driver whose trials have two seeds each."""

    def __init__(self, spec: SweepSpec, folder: Path) -> None:
        super().__init__(spec, folder)
        self.trials = Trials(assignment_of(spec, folder), spec, self.ledger, QUIET)
        self.scheduler = Reports(self.trials)

    def seed(self, number: int, seed: int, *values: float) -> bool:
        """Train one seed with this curve; return whether the trial goes on."""
        if seed == 0:
            self.ledger.add(Entry(number=number, parameters={}, epochs=8), seeds=2)
        entry = self.ledger.entry(number, seed)
        for epoch, value in enumerate(values, start=1):
            if not self.trials.report(entry, {"epoch": epoch, "objective": value, "run_id": "r"}):
                self.trials.end(entry)
                return False
        return True


def test_asha_judges_a_trial_by_the_mean_of_the_seeds_that_reached_the_rung(
    tmp_path: Path,
) -> None:
    asha = {"name": "asha", "grace_epochs": 1, "reduction_factor": 2}
    judging = Seeds(sweep(scheduler=asha, search={"seeds": 2}), tmp_path)
    assert judging.seed(0, 0, 0.5)
    assert judging.seed(0, 1, 0.7)  # the mean of trial 0 is 0.6
    assert judging.seed(1, 0, 0.65)
    assert not judging.seed(1, 1, 0.45)  # 0.55
    assert judging.ledger.decided(1)
    # The first seed, which was ahead, stops with the second.
    first = judging.ledger.entry(1, 0)
    assert not judging.trials.report(first, {"epoch": 2, "objective": 0.9, "run_id": "r"})
    judging.trials.end(first)
    assert judging.ledger[1].state is TrialState.STOPPED
    assert judging.ledger[1].values == (0.65, 0.45)
    assert judging.seed(2, 0, 0.58)  # the median of 0.6 and 0.55 is 0.575
    assert not judging.seed(3, 0, 0.57)  # of 0.6, 0.55 and 0.58: 0.58


def test_the_median_rule_judges_a_trial_by_the_mean_of_its_seeds(tmp_path: Path) -> None:
    median = {"name": "median", "grace_epochs": 1, "min_trials": 1}
    judging = Seeds(sweep(scheduler=median, search={"seeds": 2}), tmp_path)
    assert judging.seed(0, 0, 0.2, 0.6)
    assert judging.seed(0, 1, 0.4, 0.8)  # means 0.3 and 0.7: 0.5 by the end of epoch 2
    assert judging.seed(1, 0, 0.52, 0.52)
    assert not judging.seed(1, 1, 0.42, 0.42)  # 0.47


def test_every_trial_is_trained_with_every_seed_and_its_search_told_the_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = sweep(
        space={"method.variance": {"grid": [1, 5, 25]}},
        search={"algorithm": "grid", "trials": 3, "seeds": 2},
        scheduler={"name": "fifo"},
    )
    told: list[tuple[int, float | None]] = []
    monkeypatch.setattr(
        "vicreg_workers.sweep.search.GridSearch.tell",
        lambda _, trial: told.append((trial.number, trial.objective)),
    )
    order = []

    def drive(trainings: int) -> Ledger:
        """A driver that is lost after it has started this many."""
        ledger = Ledger(str(tmp_path), "sweep", spec.objective)
        trials = Trials(assignment_of(spec, tmp_path), spec, ledger, QUIET)
        for _ in range(trainings):
            entry = trials.start()
            if entry is None:
                break
            order.append((entry.number, entry.seed, entry.parameters["method.variance"]))
            result: dict[str, Any] = {"epoch": 8, "objective": 0.25 * entry.seed, "run_id": "r"}
            if (entry.number, entry.seed) == (1, 0):
                result = {"epoch": 0, "failure": "diverged", "reason": "nan", "run_id": None}
            trials.report(entry, result)
            if len(order) < trainings:
                trials.end(entry)
        return ledger

    assert (
        Trials(
            assignment_of(spec, tmp_path),
            spec,
            Ledger(str(tmp_path), "sweep", spec.objective),
            QUIET,
        ).left()
        == 6
    )
    drive(4)  # lost with the first seed of trial 2
    assert order == [(0, 0, 1), (0, 1, 1), (1, 0, 5), (2, 0, 25)]  # trial 1 has failed
    assert told == [(0, 0.125), (1, None)]
    ledger = drive(99)
    assert order[4:] == [(2, 0, 25), (2, 1, 25)]  # nothing else is trained again
    assert told[2:] == [(2, 0.125)]
    assert [trial.state.value for trial in ledger] == ["succeeded", "failed", "succeeded"]
    assert ledger.entry(1, 1).starts == 0


def test_a_sweep_that_extends_another_trains_the_trials_that_are_left(tmp_path: Path) -> None:
    request = {
        "space": {"method.variance": {"grid": [1, 5, 25]}},
        "scheduler": {"name": "fifo"},
        "extends": {"job": "sweep", "trials": 2},
        "search": {"algorithm": "grid", "trials": 3, "seeds": 2},
    }
    spec = sweep(**request)
    judging = Seeds(spec, tmp_path)
    for number in range(2):
        for seed in range(2):
            assert judging.seed(number, seed, *[0.5] * 8)
            judging.trials.end(judging.ledger.entry(number, seed))
    inherit(str(tmp_path), "more", "sweep")
    ledger = Ledger(str(tmp_path), "more", spec.objective)
    more = Trials(
        assignment_of(spec, tmp_path).model_copy(update={"job_id": "more"}), spec, ledger, QUIET
    )
    assert more.left() == 2
    started = []
    while (entry := more.start()) is not None:
        started.append((entry.number, entry.seed, entry.parameters["method.variance"]))
    assert started == [(2, 0, 25), (2, 1, 25)]
