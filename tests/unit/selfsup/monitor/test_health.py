"""Each rule fires on the curves of a run that was broken for it, and healthy runs are left alone.

The curves are those that ``python -m tests.benchmarks.health --write`` has stored.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.health import CURVES, Run, band, findings
from tests.unit.selfsup.test_train import spec_for
from vicreg_platform.specs import PretrainSpec, parse_spec
from vicreg_workers.selfsup.monitor import health
from vicreg_workers.selfsup.monitor.health import BANDS, QUANTITIES, RULES, Health, bands
from vicreg_workers.selfsup.monitor.start import StartWatch

RUNS: dict[str, Run] = json.loads(CURVES.read_text())
BROKEN_FOR = {
    "collapsed": "no variance term (cifar)",
    "dimensional_collapse": "no covariance term (cifar)",
    "invariance_not_falling": "no invariance term (cifar)",
    "covariance_dominates": "covariance × 100 (cifar)",
    "learning_rate_too_high": "rate × 5 (cifar)",
    "augmentation_too_weak": "no augmentation (cifar)",
}


@pytest.mark.parametrize("rule", [rule.name for rule in RULES])
def test_each_rule_finds_the_run_that_was_broken_for_it(rule: str) -> None:
    found = findings(RUNS[BROKEN_FOR[rule]])
    assert rule in found
    first, last, text = found[rule]
    assert last is None  # it stands at the end
    assert first < RUNS[BROKEN_FOR[rule]]["steps"]
    for part in ("since step", "now", "healthy runs of the preset cifar have", " to "):
        assert part in text


@pytest.mark.parametrize("preset", ["vicreg", "cifar"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_healthy_run_is_quiet_by_the_bands_of_another(
    monkeypatch: pytest.MonkeyPatch, preset: str, seed: int
) -> None:
    other = [RUNS[f"healthy {preset} {1 - seed}"]]
    measured = {quantity: band(other, quantity) for quantity in QUANTITIES}
    monkeypatch.setattr(health, "bands", lambda preset: measured)
    assert findings(RUNS[f"healthy {preset} {seed}"]) == {}


@pytest.mark.parametrize("name", [name for name in RUNS if name.startswith("healthy")])
def test_healthy_runs_have_no_findings(name: str) -> None:
    assert findings(RUNS[name]) == {}


def test_labels_that_say_nothing_are_no_fault_of_the_training() -> None:
    assert findings(RUNS["labels shuffled (cifar)"]) == {}


def test_there_are_bands_for_what_was_measured() -> None:
    for preset in ("vicreg", "cifar"):
        measured = bands(preset)
        assert measured.keys() == QUANTITIES.keys()
        for parts in measured.values():
            assert len(parts) == BANDS
            assert all(low <= high for low, high in parts)
    assert bands("paper") == {}


class Told:
    """Keeps what is found now."""

    def __init__(self) -> None:
        self.now: dict[str, str] = {}

    def __call__(self, name: str, text: str | None) -> None:
        self.now.pop(name, None)
        if text is not None:
            self.now[name] = text


def collapse(spec: PretrainSpec) -> Told:
    told = Told()
    judge = Health(spec, 1000, told)
    for step in range(0, 1001, 10):
        judge.note(step, {"embedding/std_mean": 0.001})
    return told


def test_only_trainings_like_the_measured_ones_are_judged() -> None:
    assert collapse(spec_for(1)).now.keys() == {"collapsed"}
    changes: tuple[dict[str, Any], ...] = (
        {"augmentation": {"preset": "paper"}},
        {"init": {"path": "weights.pth"}},
        {"method": {"name": "simclr"}},
        {"expander": {"layers": [16], "normalization": "l2"}},
    )
    for change in changes:
        assert collapse(spec_for(1, **change)).now == {}


def test_a_finding_needs_a_tenth_of_the_training_and_is_withdrawn() -> None:
    told = Told()
    judge = Health(spec_for(1), 1000, told)
    low, fine = {"embedding/std_mean": 0.001}, {"embedding/std_mean": 0.5}
    judge.note(190, low)  # not judged yet
    judge.note(400, low)
    judge.note(490, low)
    assert told.now == {}
    judge.note(500, low)
    assert "since step 400 embedding/std_mean" in told.now["collapsed"]
    assert "is too low, now 0.001 when healthy runs" in told.now["collapsed"]
    judge.note(510, fine)
    assert told.now == {}
    judge.note(520, low)
    judge.note(610, low)
    assert told.now == {}


def test_weights_that_run_away_are_found_at_once() -> None:
    told = Told()
    judge = Health(spec_for(1), 1000, told)
    judge.note(10, {"embedding/std_mean": 900.0})
    assert told.now.keys() == {"learning_rate_too_high"}


def test_a_resumed_training_knows_since_when() -> None:
    told = Told()
    first, second = (Health(spec_for(1), 1000, told) for _ in range(2))
    first.note(400, {"embedding/std_mean": 0.001})
    second.load_state_dict(first.state_dict())
    second.note(500, {"embedding/std_mean": 0.001})
    assert "since step 400" in told.now["collapsed"]
    second.load_state_dict({})  # a checkpoint of 0.2.0
    assert second.state_dict() == {"health": {}}


def test_the_rules_are_documented() -> None:
    page = (Path(__file__).parents[4] / "docs" / "health.md").read_text()
    start = {StartWatch(1, from_weights=each).name for each in (True, False)}
    for name in {rule.name for rule in RULES} | start:
        assert f"| `{name}` |" in page


def test_stored_runs_have_specs_that_can_be_read() -> None:
    assert all(parse_spec(run["spec"]).kind == "pretrain" for run in RUNS.values())
