"""A trial is what the ledger holds of its seeds."""

import json
from pathlib import Path

import pytest

from tests.unit.workers.sweep.test_search import open_ledger, sweep
from vicreg_platform.contract.trial import TrialState
from vicreg_workers.failures import UserFailure
from vicreg_workers.sweep.ledger import Entry, Ledger, inherit


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return open_ledger(sweep(search={"seeds": 3}), tmp_path)


def train(ledger: Ledger, number: int, *curves: tuple[float, ...]) -> None:
    """A trial of three seeds, of which the first ones have trained so far."""
    ledger.add(Entry(number=number, parameters={"method.variance": 5}, epochs=2), seeds=3)
    for seed, curve in enumerate(curves):
        entry = ledger.entry(number, seed)
        ledger.started(entry)
        for epoch, value in enumerate(curve, start=1):
            ledger.report(entry, epoch, value, f"run-{seed}")
        if len(curve) == entry.epochs:
            ledger.end(entry, TrialState.SUCCEEDED)


def test_a_trial_is_the_mean_of_its_seeds(ledger: Ledger) -> None:
    train(ledger, 0, (0.1, 0.6), (0.1, 0.7), (0.1, 0.8))
    trial = ledger[0]
    assert (trial.state, trial.epoch, trial.values) == (TrialState.SUCCEEDED, 2, (0.6, 0.7, 0.8))
    assert trial.objective == pytest.approx(0.7)
    assert trial.std == pytest.approx(0.1)  # of a sample: sqrt((0.01 + 0 + 0.01) / 2)


def test_seeds_are_compared_after_the_same_number_of_epochs(ledger: Ledger) -> None:
    train(ledger, 0, (0.5, 0.9), (0.3,))
    trial = ledger[0]
    assert (trial.state, trial.epoch, trial.values) == (TrialState.RUNNING, 1, (0.5, 0.3))
    assert trial.objective == pytest.approx(0.4)
    assert trial.std == pytest.approx(0.2 / 2**0.5)


def test_one_value_has_no_deviation(ledger: Ledger) -> None:
    train(ledger, 0, (0.5, 0.9))
    assert (ledger[0].objective, ledger[0].std, ledger[0].epoch) == (0.9, None, 2)
    assert ledger[0].state is TrialState.RUNNING  # two seeds have not started


def test_a_trial_fails_with_one_of_its_seeds(ledger: Ledger) -> None:
    train(ledger, 0, (0.5, 0.9), (0.3,))
    train(ledger, 1, (0.1, 0.1))
    failed, left = ledger.entry(0, 1), ledger.entry(0, 2)
    ledger.end(failed, TrialState.FAILED, failure="diverged", reason="the loss is nan")
    assert ledger.decided(0)
    assert not ledger.decided(1)
    ledger.end(left, TrialState.STOPPED)
    trial = ledger[0]
    assert (trial.state, trial.failure) == (TrialState.FAILED, "diverged")
    assert trial.reason == "seed 2 of 3: the loss is nan"
    assert (trial.objective, trial.values, trial.std) == (None, (), None)
    best = ledger.best()
    assert best is not None
    assert best.number == 1  # worse than trial 0 was with its first seed


def test_the_mean_by_epoch_is_that_of_the_seeds_that_have_come_as_far(ledger: Ledger) -> None:
    train(ledger, 0, (0.5, 0.9), (0.3,))
    assert ledger.scores(0) == pytest.approx({1: 0.4, 2: 0.9})


def test_a_killed_driver_leaves_whole_trials_and_open_seeds(ledger: Ledger, tmp_path: Path) -> None:
    train(ledger, 0, (0.5, 0.9), (0.3,))
    folder = tmp_path / "sweep" / "trials"
    assert sorted(file.name for file in folder.glob("*.json")) == [
        "00000-1.json", "00000-2.json", "00000.json",
    ]  # fmt: skip
    # The next trial was being added: its first seed was to be written last.
    half = json.loads((folder / "00000-2.json").read_text()) | {"number": 1}
    (folder / "00001-2.json").write_text(json.dumps(half))
    again = open_ledger(sweep(search={"seeds": 3}), tmp_path)
    assert list(again) == list(ledger)
    assert [(entry.number, entry.seed) for entry in again.open()] == [(0, 1), (0, 2)]
    assert again.entry(0, 1).curve == {1: 0.3}


def test_a_ledger_from_before_seeds_is_read(ledger: Ledger, tmp_path: Path) -> None:
    before = {
        "number": 0, "state": "succeeded", "parameters": {"method.variance": 5}, "objective": 0.9,
        "epoch": 2, "epochs": 2, "failure": None, "reason": None, "curve": {"1": 0.5, "2": 0.9},
        "run_id": "run", "starts": 1, "refused": 0,
    }  # fmt: skip
    folder = tmp_path / "sweep" / "trials"
    folder.mkdir(parents=True)
    (folder / "00000.json").write_text(json.dumps(before))
    (trial,) = open_ledger(sweep(), tmp_path)
    assert (trial.state, trial.objective, trial.epoch) == (TrialState.SUCCEEDED, 0.9, 2)


def test_a_sweep_that_extends_another_begins_with_its_trials(
    ledger: Ledger, tmp_path: Path
) -> None:
    train(ledger, 0, (0.1, 0.6), (0.1, 0.7), (0.1, 0.8))
    train(ledger, 1, (0.1, 0.2), (0.1, 0.3), (0.1, 0.4))
    for _ in range(2):  # a driver that was lost begins again
        inherit(str(tmp_path), "more", "sweep")
    spec = sweep(search={"seeds": 3})
    more = Ledger(str(tmp_path), "more", spec.objective)
    assert list(more) == list(ledger)
    assert more.open() == []
    # Their runs are the other sweep's.
    assert {(entry.run_id, entry.starts) for entry in more.entries()} == {(None, 0)}
    more.add(Entry(number=2, parameters={}, epochs=2), seeds=3)
    inherit(str(tmp_path), "more", "sweep")
    assert len(Ledger(str(tmp_path), "more", spec.objective)) == 3
    assert len(ledger) == 2


def test_a_sweep_whose_trials_are_lost_cannot_be_extended(tmp_path: Path) -> None:
    with pytest.raises(UserFailure, match="the trials of sweep gone are not in the storage"):
        inherit(str(tmp_path), "more", "gone")


def test_a_damaged_record_is_named_once(tmp_path: Path) -> None:
    spec = sweep(search={"seeds": 3})
    train(open_ledger(spec, tmp_path), 0, (0.5,))
    (file, *_) = sorted(tmp_path.rglob("trials/*.json"))
    file.write_text('{"number": 0')
    with pytest.raises(UserFailure, match=rf"record of a trial is damaged: .*{file.name}: [^\n]+$"):
        open_ledger(spec, tmp_path)
