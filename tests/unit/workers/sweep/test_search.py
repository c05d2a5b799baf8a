"""Searches draw from the space, repeat for a seed, and continue from the ledger."""

import math
from pathlib import Path
from typing import Any

import pytest

from vicreg_platform.contract.trial import TrialState
from vicreg_platform.specs import SweepSpec, parse_spec
from vicreg_workers.failures import UserFailure
from vicreg_workers.sweep.ledger import Entry, Ledger, inherit
from vicreg_workers.sweep.search import OptunaSearch, build_search, next_trial

SPACE = {
    "optimizer.base_lr": {"loguniform": [0.01, 1.0]},
    "method.invariance": {"uniform": [1, 25]},
    "method.variance": {"quniform": [5, 25, 5]},
    "training.batch_size": {"randint": [16, 33]},
    "expander.layers": {"choice": [[16, 16], [32]]},
}


def sweep(**changes: Any) -> SweepSpec:
    request = {
        "kind": "sweep",
        "base": {
            "data": {"source": "digits"},
            "training": {"epochs": 4},
            "resources": {"workers": 2},
        },
        "space": SPACE,
    }
    spec = parse_spec(request | changes)
    assert isinstance(spec, SweepSpec)
    return spec


def trials(spec: SweepSpec, ledger: Ledger, count: int) -> list[Entry]:
    """The next trials. The objective is the larger, the nearer the learning rate is to 0.05."""
    search = build_search(spec, ledger)
    entries = []
    for _ in range(count):
        entry = next_trial(search, spec, len(ledger))
        if entry is None:
            break
        ledger.add(entry)
        distance = abs(math.log(entry.parameters.get("optimizer.base_lr", 1.0) / 0.05))
        entry = ledger.entry(entry.number)
        ledger.report(entry, 1, 1.0 - distance / 10, "run")
        ledger.end(entry, TrialState.SUCCEEDED)
        search.tell(ledger[entry.number])
        entries.append(entry)
    return entries


def open_ledger(spec: SweepSpec, folder: Path) -> Ledger:
    return Ledger(str(folder), "sweep", spec.objective)


@pytest.mark.parametrize("algorithm", ["random", "optuna"])
def test_every_trial_is_a_valid_configuration_of_the_space(tmp_path: Path, algorithm: str) -> None:
    spec = sweep(search={"algorithm": algorithm})
    entries = trials(spec, open_ledger(spec, tmp_path), 20)
    for entry in entries:
        values = entry.parameters
        assert 0.01 <= values["optimizer.base_lr"] <= 1.0
        assert 1 <= values["method.invariance"] <= 25
        assert values["method.variance"] in (5, 10, 15, 20, 25)
        assert values["training.batch_size"] in range(16, 33, 2)  # two workers share it
        assert values["expander.layers"] in ([16, 16], [32])
    # Half of the batch sizes are odd: those draws are refused and counted.
    assert 3 < sum(entry.refused for entry in entries) < 80
    assert len({entry.parameters["optimizer.base_lr"] for entry in entries}) == 20


@pytest.mark.parametrize("algorithm", ["random", "optuna"])
def test_a_seed_makes_the_same_trials(tmp_path: Path, algorithm: str) -> None:
    def parameters(name: str, seed: int) -> list[dict[str, Any]]:
        spec = sweep(search={"algorithm": algorithm, "seed": seed})
        return [e.parameters for e in trials(spec, open_ledger(spec, tmp_path / name), 12)]

    assert parameters("a", 1) == parameters("b", 1)
    assert parameters("c", 1) != parameters("d", 2)


def test_random_trials_do_not_depend_on_restarts_of_the_driver(tmp_path: Path) -> None:
    spec = sweep()
    whole = [e.parameters for e in trials(spec, open_ledger(spec, tmp_path / "a"), 6)]
    first = [e.parameters for e in trials(spec, open_ledger(spec, tmp_path / "b"), 2)]
    second = [e.parameters for e in trials(spec, open_ledger(spec, tmp_path / "b"), 4)]
    assert first + second == whole


def test_a_grid_is_used_up_once_over_all_drivers(tmp_path: Path) -> None:
    space = {
        "training.batch_size": {"grid": [16, 17, 18]},  # two workers cannot share 17
        "method.variance": {"grid": [1, 25]},
    }
    spec = sweep(space=space, search={"algorithm": "grid"})
    first = trials(spec, open_ledger(spec, tmp_path), 3)
    second = trials(spec, open_ledger(spec, tmp_path), 9)
    assert [tuple(entry.parameters.values()) for entry in first + second] == [
        (16, 1),
        (16, 25),
        (18, 1),
        (18, 25),
    ]
    assert [entry.refused for entry in first + second] == [0, 0, 2, 0]


def test_optuna_learns_from_the_trials_of_an_earlier_driver(tmp_path: Path) -> None:
    space = {"optimizer.base_lr": SPACE["optimizer.base_lr"]}
    spec = sweep(space=space, search={"algorithm": "optuna", "seed": 3})
    trials(spec, open_ledger(spec, tmp_path), 25)
    later = trials(spec, open_ledger(spec, tmp_path), 25)
    near = [entry for entry in later if 0.03 < entry.parameters["optimizer.base_lr"] < 0.08]
    # By chance it would be 5 of them.
    assert len(near) >= 9


def test_a_search_goes_on_from_the_trials_of_the_sweep_that_it_extends(tmp_path: Path) -> None:
    spec = sweep(search={"algorithm": "optuna", "seed": 3})
    before = trials(spec, open_ledger(spec, tmp_path), 5)
    inherit(str(tmp_path), "more", "sweep")
    ledger = Ledger(str(tmp_path), "more", spec.objective)
    search = build_search(spec, ledger)
    assert isinstance(search, OptunaSearch)
    known = [trial.value for trial in search._study.trials]
    assert known == [ledger[entry.number].objective for entry in before]
    assert len(known) == 5
    after = next_trial(search, spec, len(ledger))
    assert after is not None
    assert after.number == 5


def test_a_space_without_valid_configurations_is_a_user_failure(tmp_path: Path) -> None:
    spec = sweep(space={"training.batch_size": {"choice": [17, 19]}})
    with pytest.raises(UserFailure, match="refused by the pretrain spec, such as"):
        trials(spec, open_ledger(spec, tmp_path), 1)


def test_a_ledger_is_read_as_it_was_written(tmp_path: Path) -> None:
    spec = sweep(objective={"metric": "knn/top1", "value": "best"})
    ledger = open_ledger(spec, tmp_path)
    ledger.add(Entry(number=0, parameters={"method.variance": 5}, epochs=4))
    ledger.add(Entry(number=1, parameters={"method.variance": 25}, epochs=4))
    ledger.started(ledger.entry(0))
    for epoch, value in ((1, 0.5), (2, 0.4)):
        ledger.report(ledger.entry(0), epoch, value, "run")
        assert ledger[0].objective == 0.5
    failed = ledger.entry(1)
    ledger.end(failed, TrialState.FAILED, failure="diverged", reason="the loss is nan")
    again = open_ledger(spec, tmp_path)
    assert list(again) == list(ledger)
    assert [entry.number for entry in again.open()] == [0]
    best = again.best()
    assert best is not None
    assert (best.number, best.objective, best.epoch) == (0, 0.5, 2)
    assert (again[1].failure, again[1].reason) == ("diverged", "the loss is nan")
