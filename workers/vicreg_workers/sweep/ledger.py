"""The record of a sweep's trials: one file per trial, in the sweep's folder of the storage.

The driver keeps nothing else that matters. A new driver continues from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from pydantic import Field

from vicreg_platform.contract.trial import Trial, TrialState, ranked
from vicreg_platform.specs import Objective
from vicreg_platform.text import printable
from vicreg_workers.storage import Folder

REASON_LENGTH = 1000


class Entry(Trial):
    """A trial and its curve."""

    curve: dict[int, float] = Field(default_factory=dict)
    """The objective at the end of each epoch."""
    run_id: str | None = None
    starts: int = 0
    """How often a driver has started it. Ray Tune's own retries are not counted."""
    refused: int = 0
    """Configurations drawn before this one that the pretrain spec refused."""


class Ledger:
    """The trials of one sweep. Only its driver writes them.

    Args:
        storage: a path or an fsspec URL.
        job_id: the sweep.
        objective: what trials are judged by.
    """

    def __init__(self, storage: str, job_id: str, objective: Objective) -> None:
        self._folder = Folder.of_job(storage, job_id) / "trials"
        self._objective = objective
        files = [name for name in self._folder.names() if name.endswith(".json")]
        entries = [Entry.model_validate_json(self._folder.read(name)) for name in files]
        self._entries = {entry.number: entry for entry in entries}

    def __iter__(self) -> Iterator[Entry]:
        return iter(sorted(self._entries.values(), key=lambda entry: entry.number))

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, number: int) -> Entry:
        return self._entries[number]

    def add(self, entry: Entry) -> None:
        """Record a new trial."""
        self._entries[entry.number] = entry
        self._write(entry)

    def started(self, number: int) -> None:
        """Record that a driver starts or resumes the trial."""
        entry = self._entries[number]
        entry.starts += 1
        entry.state = TrialState.RUNNING
        self._write(entry)

    def report(self, number: int, epoch: int, value: float, run_id: str) -> None:
        """Record the objective at the end of an epoch."""
        entry = self._entries[number]
        entry.curve[epoch] = value
        entry.run_id = run_id
        entry.epoch = max(entry.curve)
        entry.objective = self.scores(entry)[entry.epoch]
        self._write(entry)

    def end(
        self,
        number: int,
        state: TrialState,
        *,
        failure: str | None = None,
        reason: str | None = None,
        run_id: str | None = None,
    ) -> None:
        """Record that the trial has ended, and how."""
        entry = self._entries[number]
        entry.state = state
        # MLflow's limit on a tag holds the configuration too.
        entry.failure, entry.reason = failure, reason and printable(reason)[:REASON_LENGTH]
        entry.run_id = run_id or entry.run_id
        self._write(entry)

    def open(self) -> list[Entry]:
        """The trials that have not ended, oldest first."""
        return [entry for entry in self if entry.state is TrialState.RUNNING]

    def best(self) -> Entry | None:
        """The best of the trials that have a value."""
        order: list[Any] = ranked(list(self), self._objective.mode)
        return order[0] if order and order[0].objective is not None else None

    def scores(self, entry: Entry) -> dict[int, float]:
        """A trial's objective by the end of each epoch: its best or last value until then."""
        epochs = sorted(entry.curve)
        values = [entry.curve[epoch] for epoch in epochs]
        if self._objective.value == "best":
            values = list(accumulate(values, max if self._objective.mode == "max" else min))
        return dict(zip(epochs, values, strict=True))

    def _write(self, entry: Entry) -> None:
        self._folder.write(f"{entry.number:05d}.json", entry.model_dump_json(indent=1).encode())
