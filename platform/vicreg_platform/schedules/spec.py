"""The spec of a schedule."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from vicreg_platform.errors import InvalidSpec
from vicreg_platform.schedules.cron import Cron
from vicreg_platform.specs.base import (
    CrossFieldError,
    Moment,
    Name,
    SpecModel,
    TimeSpan,
    field_faults,
)
from vicreg_platform.specs.stored import Unreadable, Upgrades, read_stored

_PLACEHOLDER = re.compile(r"\{\{[ \t]{0,8}(\w{0,64})[ \t]{0,8}\}\}")
"""Bounded on purpose: a text of blanks after ``{{`` must not take time that grows as its square."""
SCHEDULED_TIME = "scheduled_time"


class ScheduleSpec(SpecModel):
    """A job that is submitted at the times of a cron expression."""

    name: Name
    cron: Annotated[str, Field(max_length=200)]
    """Minute, hour, day of the month, month, day of the week, as in ``30 2 * * 1-5``."""
    timezone: Annotated[str, Field(max_length=64)] = "UTC"
    """The IANA time zone of ``cron``, such as ``Europe/Paris``. When clocks go forward, a time in
    the skipped hour comes right after it; when they go back, a time in the repeated hour comes
    once, and an hourly one in both."""
    job: dict[str, Any]
    """The spec of a job of any kind. In its name and labels, ``{{ scheduled_time }}`` is replaced
    by the time at which the job was due, in ISO 8601 and the schedule's time zone. It is stored as
    it was written, and takes neither ``start_after`` nor ``deadline``."""
    overlap: Literal["skip", "queue", "cancel"] = "skip"
    """If the last job is unfinished: skip this time, let the new job wait for it, or cancel it.
    Evaluations and promoted jobs count as part of the job that they follow from."""
    catch_up: Literal["none", "last", "all"] = "last"
    """Which of the times that passed while no dispatcher was running are caught up on."""
    catch_up_limit: int = Field(default=10, ge=1, le=1000)
    """With ``all``: at most this many, the latest."""
    jitter: Annotated[TimeSpan, Field(ge=timedelta(0), le=timedelta(days=1))] = timedelta(0)
    """Each job starts later by a random time of up to this: seconds, or as in ``PT5M``."""
    ends_at: Moment | None = None
    """No job is submitted after this moment."""
    max_runs: int | None = Field(default=None, ge=1)
    """The schedule ends after this many jobs; those of ``run-now`` do not count."""

    @model_validator(mode="after")
    def _makes_sense(self) -> ScheduleSpec:
        faults: list[tuple[tuple[str, ...], str]] = []
        try:
            _ = self.times
        except ValueError as error:
            field = "timezone" if "time zone" in str(error) else "cron"
            faults.append(((field,), str(error)))
        for name in ("start_after", "deadline"):
            if name in self.job:
                text = "cannot be the same for every job: use jitter, or max_runtime"
                faults.append(((f"job.{name}",), text))
        unknown = {word for word in _placeholders(self.job) if word != SCHEDULED_TIME}
        faults += [
            (
                ("job",),
                f"unknown placeholder '{{{{ {word} }}}}'; {{{{ {SCHEDULED_TIME} }}}} is known",
            )
            for word in sorted(unknown)
        ]
        if faults:
            raise CrossFieldError(faults)
        return self

    @property
    def times(self) -> Cron:
        """The times at which the schedule is due."""
        return Cron(self.cron, self.timezone)

    def job_at(self, tick: datetime) -> dict[str, Any]:
        """The job's spec for one time, as a user would write it."""
        moment = tick.astimezone(self.times.local).isoformat()

        def filled(text: Any) -> Any:
            return _PLACEHOLDER.sub(moment, text) if isinstance(text, str) else text

        job = dict(self.job)
        if "name" in job:
            job["name"] = filled(job["name"])
        if isinstance(job.get("labels"), dict):
            job["labels"] = {key: filled(value) for key, value in job["labels"].items()}
        return job


_ADAPTER = TypeAdapter(ScheduleSpec)
_UPGRADES: Upgrades = {}
"""By version: turns a schedule of it into one of the next; none is needed yet."""


def read_schedule(stored: object, version: int | None) -> ScheduleSpec | Unreadable:
    """The typed spec of a stored schedule; see ``specs.stored``."""
    return read_stored(_ADAPTER, ScheduleSpec, stored, version, _UPGRADES)


def parse_schedule(data: Any) -> ScheduleSpec:
    """The typed schedule for what a user wrote.

    Raises:
        InvalidSpec: with every fault.
    """
    try:
        return ScheduleSpec.model_validate(data)
    except ValidationError as error:
        raise InvalidSpec(field_faults(ScheduleSpec, data, error)) from None


def _placeholders(job: dict[str, Any]) -> list[str]:
    labels = job.get("labels")
    texts = [job.get("name"), *(labels.values() if isinstance(labels, dict) else ())]
    return [word for text in texts if isinstance(text, str) for word in _PLACEHOLDER.findall(text)]
