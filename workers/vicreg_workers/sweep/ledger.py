"""What a sweep has tried: one file a trial, in the sweep's folder of the storage.

The driver of a sweep keeps nothing else that matters: one that is started anew goes on from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fsspec
from pydantic import Field

from vicreg_platform.contract.trial import Trial, TrialState, ranked
from vicreg_platform.specs import Objective


class Entry(Trial):
    """A trial and its curve."""

    curve: dict[int, float] = Field(default_factory=dict)
    """The objective at the ends of its epochs."""
    run_id: str | None = None
    starts: int = 0
    """How often a driver has begun it; what Ray Tune tries again by itself is not counted."""
    refused: int = 0
    """Configurations drawn for it before that do not fit together."""


class Ledger:
    """The trials of one sweep, written by its driver alone.

    Args:
        storage: a path or an fsspec URL.
        job_id: the sweep.
        objective: by which a trial is judged.
    """

    def __init__(self, storage: str, job_id: str, objective: Objective) -> None:
        self._fs, root = fsspec.core.url_to_fs(storage)
        self._folder = f"{root.rstrip('/')}/{job_id}/trials"
        self._objective = objective
        self._fs.makedirs(self._folder, exist_ok=True)
        # An object store has no empty folders, and lists are cached.
        self._fs.invalidate_cache()
        files = self._fs.glob(f"{self._folder}/*.json")
        entries = [Entry.model_validate_json(self._fs.cat_file(name)) for name in files]
        self._entries = {entry.number: entry for entry in entries}

    def __iter__(self) -> Iterator[Entry]:
        return iter(sorted(self._entries.values(), key=lambda entry: entry.number))

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, number: int) -> Entry:
        return self._entries[number]

    def add(self, entry: Entry) -> None:
        """Keep a new trial."""
        self._entries[entry.number] = entry
        self._write(entry)

    def started(self, number: int) -> None:
        """The trial's training begins, or goes on."""
        entry = self._entries[number]
        entry.starts += 1
        entry.state = TrialState.RUNNING
        self._write(entry)

    def report(self, number: int, epoch: int, value: float, run_id: str) -> float:
        """Keep the objective at the end of an epoch.

        Returns:
            What the trial counts for now.
        """
        entry = self._entries[number]
        entry.curve[epoch] = value
        entry.run_id = run_id
        entry.epoch = max(entry.curve)
        score = self._score(entry)
        entry.objective = score
        self._write(entry)
        return score

    def end(
        self,
        number: int,
        state: TrialState,
        *,
        failure: str | None = None,
        reason: str | None = None,
        run_id: str | None = None,
    ) -> None:
        """The trial is over."""
        entry = self._entries[number]
        entry.state = state
        entry.failure, entry.reason = failure, reason
        entry.run_id = run_id or entry.run_id
        self._write(entry)

    def open(self) -> list[Entry]:
        """Trials that have not ended, oldest first."""
        return [entry for entry in self if entry.state is TrialState.RUNNING]

    def best(self) -> Entry | None:
        """The best trial of those that have a value."""
        order: list[Any] = ranked(list(self), self._objective.mode)
        return order[0] if order and order[0].objective is not None else None

    def _score(self, entry: Entry) -> float:
        if self._objective.value == "last":
            return entry.curve[max(entry.curve)]
        values = entry.curve.values()
        return max(values) if self._objective.mode == "max" else min(values)

    def _write(self, entry: Entry) -> None:
        """All or nothing: under another name first."""
        path = f"{self._folder}/{entry.number:05d}.json"
        self._fs.pipe_file(f"{path}.part", entry.model_dump_json(indent=1).encode())
        self._fs.mv(f"{path}.part", path)
