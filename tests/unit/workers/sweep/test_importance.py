from __future__ import annotations

import random

import pytest

from vicreg_platform.contract.trial import Trial, TrialState
from vicreg_platform.specs import SweepSpec, parse_spec
from vicreg_workers.sweep.importance import FEWEST, importance


@pytest.fixture
def sweep() -> SweepSpec:
    spec = parse_spec(
        {
            "kind": "sweep",
            "base": {"data": {"source": "digits"}},
            "space": {
                "optimizer.base_lr": {"loguniform": [0.01, 1.0]},
                "method.variance": {"uniform": [1, 25]},
                "backbone.stem": {"choice": ["cifar", "imagenet"]},
            },
        }
    )
    assert isinstance(spec, SweepSpec)
    return spec


def trial(number: int, value: float | None, **changes: object) -> Trial:
    generator = random.Random(number)
    parameters = {
        "optimizer.base_lr": 10 ** generator.uniform(-2, 0),
        "method.variance": generator.uniform(1, 25),
        "backbone.stem": generator.choice(["cifar", "imagenet"]),
    }
    given = {"state": TrialState.SUCCEEDED, "epochs": 4, "epoch": 4, "objective": value}
    return Trial.model_validate({"number": number, "parameters": parameters} | given | changes)


def test_what_the_objective_follows_is_what_matters(sweep: SweepSpec) -> None:
    trials = [trial(number, None) for number in range(60)]
    for each in trials:
        # Only the variance weight matters, and the stem a tenth as much.
        each.objective = each.parameters["method.variance"] + 2.0 * (
            each.parameters["backbone.stem"] == "cifar"
        )
    found = importance(sweep, trials)
    assert found.trials == 60
    assert sum(found.items.values()) == pytest.approx(1.0)
    assert found.items["method.variance"] > 0.85
    assert found.items["optimizer.base_lr"] < 0.05


def test_trials_that_were_stopped_early_do_not_count(sweep: SweepSpec) -> None:
    whole = [trial(number, float(number)) for number in range(FEWEST - 1)]
    stopped = [trial(100 + n, 0.5, state=TrialState.STOPPED, epoch=1) for n in range(20)]
    found = importance(sweep, whole + stopped)
    assert (found.items, found.trials) == ({}, FEWEST - 1)
    assert (
        found.reason == f"{FEWEST - 1} trials were trained to their last epoch; it takes {FEWEST}"
    )


def test_equal_objectives_say_nothing(sweep: SweepSpec) -> None:
    found = importance(sweep, [trial(number, 1.0) for number in range(FEWEST)])
    assert found.items == {}
    assert found.reason == "all trials have the same objective"
