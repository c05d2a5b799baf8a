"""The record of a sweep's trials: one file per training, in the sweep's folder of the storage.

The driver keeps nothing else that matters. A new driver continues from here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import accumulate
from statistics import fmean, stdev
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from vicreg_platform.contract.trial import Trial, TrialState, name_of_training, ranked
from vicreg_platform.specs import Objective
from vicreg_platform.text import printable
from vicreg_workers.failures import UserFailure
from vicreg_workers.storage import Folder

REASON_LENGTH = 1000


class Entry(BaseModel):
    """A training of a trial: its configuration with one of its seeds."""

    number: int
    """The trial's."""
    seed: int = 0
    """Which of the trial's seeds, from 0."""
    state: TrialState = TrialState.RUNNING
    """Running from the moment that the trial is drawn."""
    parameters: dict[str, Any]
    epochs: int
    curve: dict[int, float] = Field(default_factory=dict)
    """The objective at the end of each epoch."""
    failure: str | None = None
    reason: str | None = None
    run_id: str | None = None
    starts: int = 0
    """How often a driver has started it. Ray Tune's own retries are not counted."""
    refused: int = 0
    """Configurations drawn before this one that the pretrain spec refused."""

    @property
    def epoch(self) -> int:
        """Epochs trained."""
        return max(self.curve, default=0)


def inherit(storage: str, job_id: str, extended: str) -> None:
    """Begin a sweep's ledger with the trials of the sweep that it extends.

    Their runs stay those of the other sweep.

    Args:
        storage: a path or an fsspec URL.
        job_id: the sweep.
        extended: the sweep that it extends, which has ended.

    Raises:
        UserFailure: the other sweep's ledger is not in the storage, or damaged.
    """
    ledger = Folder.of_job(storage, job_id) / "trials"
    other = Folder.of_job(storage, extended) / "trials"
    inherited = [name for name in other.names() if name.endswith(".json")]
    known = set(ledger.names())
    if not inherited and not known:
        raise UserFailure(f"extends.job: the trials of sweep {extended} are not in the storage")
    for name in inherited:  # a trial's first seed comes last, as it was written
        if name not in known:
            entry = _read(other, name)
            entry.run_id, entry.starts = None, 0
            ledger.write(name, entry.model_dump_json(indent=1).encode())


def _read(folder: Folder, name: str) -> Entry:
    try:
        return Entry.model_validate_json(folder.read(name))
    except ValidationError as error:
        (fault, *_) = error.errors(include_url=False)
        raise UserFailure(
            f"the record of a trial is damaged: {folder}/{name}: {fault['msg']}"
        ) from None


class Ledger:
    """The trials of one sweep. Only its driver writes them.

    Args:
        storage: a path or an fsspec URL.
        job_id: the sweep.
        objective: what trials are judged by.

    Raises:
        UserFailure: a file of it is damaged.
    """

    def __init__(self, storage: str, job_id: str, objective: Objective) -> None:
        self._folder = Folder.of_job(storage, job_id) / "trials"
        self._objective = objective
        files = [name for name in self._folder.names() if name.endswith(".json")]
        read = [_read(self._folder, name) for name in files]
        # The first seed's is written last: a trial without it was not started.
        drawn = {entry.number for entry in read if entry.seed == 0}
        self._entries: dict[int, dict[int, Entry]] = defaultdict(dict)
        for entry in read:
            if entry.number in drawn:
                self._entries[entry.number][entry.seed] = entry
        self._trials = {number: self._trial(number) for number in sorted(drawn)}

    def __iter__(self) -> Iterator[Trial]:
        return iter(self._trials.values())

    def __len__(self) -> int:
        return len(self._trials)

    def __getitem__(self, number: int) -> Trial:
        return self._trials[number]

    def add(self, entry: Entry, seeds: int = 1) -> None:
        """Record a new trial.

        Args:
            entry: its training with the first seed.
            seeds: how many seeds it is trained with.
        """
        for seed in reversed(range(seeds)):
            each = entry.model_copy(update={"seed": seed}, deep=True)
            self._entries[entry.number][seed] = each
            self._write(each)

    def entries(self, number: int | None = None) -> list[Entry]:
        """The trainings of a trial, or of all trials, in the order of trials and seeds."""
        numbers = sorted(self._entries) if number is None else (number,)
        return [each for n in numbers for _, each in sorted(self._entries[n].items())]

    def entry(self, number: int, seed: int = 0) -> Entry:
        """A trial's training with one of its seeds."""
        return self._entries[number][seed]

    def started(self, entry: Entry) -> None:
        """Record that a driver starts or resumes the training."""
        entry.starts += 1
        entry.state = TrialState.RUNNING
        self._write(entry)

    def report(self, entry: Entry, epoch: int, value: float, run_id: str) -> None:
        """Record the objective at the end of an epoch."""
        entry.curve[epoch] = value
        entry.run_id = run_id
        self._write(entry)

    def end(
        self,
        entry: Entry,
        state: TrialState,
        *,
        failure: str | None = None,
        reason: str | None = None,
        run_id: str | None = None,
    ) -> None:
        """Record that the training has ended, and how."""
        entry.state = state
        # MLflow's limit on a tag holds the configuration too.
        entry.failure, entry.reason = failure, reason and printable(reason)[:REASON_LENGTH]
        entry.run_id = run_id or entry.run_id
        self._write(entry)

    def open(self) -> list[Entry]:
        """The trainings that have not ended, in the order of trials and seeds."""
        return [entry for entry in self.entries() if entry.state is TrialState.RUNNING]

    def decided(self, number: int) -> bool:
        """Whether a trial has failed or was stopped with one of its seeds: the others stop too."""
        ends = (TrialState.FAILED, TrialState.STOPPED)
        return any(entry.state in ends for entry in self.entries(number))

    def best(self) -> Trial | None:
        """The best of the trials that have a value."""
        order = ranked(list(self), self._objective.mode)
        return order[0] if order and order[0].objective is not None else None

    def scores(self, number: int) -> dict[int, float]:
        """A trial's objective by the end of each epoch.

        It is the mean of the seeds that have come as far, each by its best or last value until
        then.
        """
        values: dict[int, list[float]] = defaultdict(list)
        for entry in self.entries(number):
            for epoch, value in self._scores(entry).items():
                values[epoch].append(value)
        return {epoch: fmean(values[epoch]) for epoch in sorted(values)}

    def _scores(self, entry: Entry) -> dict[int, float]:
        epochs = sorted(entry.curve)
        values = [entry.curve[epoch] for epoch in epochs]
        if self._objective.value == "best":
            values = list(accumulate(values, max if self._objective.mode == "max" else min))
        return dict(zip(epochs, values, strict=True))

    def _trial(self, number: int) -> Trial:
        """A trial, by what the ledger holds of its seeds.

        Seeds are compared after the same number of epochs: the last that each of them has reached,
        but for those that have not reached any.
        """
        entries = self.entries(number)
        epoch = min((entry.epoch for entry in entries if entry.curve), default=0)
        values = [self._scores(entry).get(epoch) for entry in entries]
        known = [value for value in values if value is not None]
        states = {entry.state for entry in entries}
        order = (TrialState.RUNNING, TrialState.FAILED, TrialState.STOPPED, TrialState.SUCCEEDED)
        failed = next((entry for entry in entries if entry.state is TrialState.FAILED), None)
        reason = failed and failed.reason
        if failed is not None and len(entries) > 1:
            known = []
            reason = f"seed {failed.seed + 1} of {len(entries)}: {reason}"
        return Trial(
            number=number,
            state=next(state for state in order if state in states),
            parameters=entries[0].parameters,
            objective=fmean(known) if known else None,
            values=tuple(known),
            std=stdev(known) if len(known) > 1 else None,
            epoch=epoch,
            epochs=entries[0].epochs,
            failure=failed and failed.failure,
            reason=reason,
        )

    def _write(self, entry: Entry) -> None:
        name = f"{name_of_training(entry.number, entry.seed)}.json"
        self._folder.write(name, entry.model_dump_json(indent=1).encode())
        self._trials[entry.number] = self._trial(entry.number)
