"""What a user says of a schedule."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from vicreg_platform.errors import InvalidSpec
from vicreg_platform.schedules.cron import Cron
from vicreg_platform.specs.base import CrossFieldError, Moment, Name, SpecModel, field_faults

_PLACEHOLDER = re.compile(r"\{\{\s*(\w*)\s*\}\}")
SCHEDULED_TIME = "scheduled_time"


class ScheduleSpec(SpecModel):
    """A job to be made at the times of a cron expression."""

    name: Name
    cron: Annotated[str, Field(max_length=200)]
    """Minute, hour, day of the month, month, day of the week, as in ``30 2 * * 1-5``."""
    timezone: Annotated[str, Field(max_length=64)] = "UTC"
    """The IANA time zone in which ``cron`` is meant, such as ``Europe/Paris``."""
    job: dict[str, Any]
    """The spec of a job of any kind. In its name and labels ``{{ scheduled_time }}`` stands for
    the time that the job was due, in ISO 8601 and the schedule's zone."""
    overlap: Literal["skip", "queue", "cancel"] = "skip"
    """Where the last job has not ended: make none, have the new one wait for it, or cancel it.
    Evaluations and promoted jobs count as part of the job that they come from."""
    catch_up: Literal["none", "last", "all"] = "last"
    """Which of the times that passed while no dispatcher was at work are made up for."""
    catch_up_limit: int = Field(default=10, ge=1, le=1000)
    """With ``all``: the latest so many."""
    jitter: Annotated[timedelta, Field(ge=timedelta(0), le=timedelta(days=1))] = timedelta(0)
    """Each job starts up to this much later, by chance: seconds, or as in ``PT5M``."""
    ends_at: Moment | None = None
    """No job is made after this moment."""
    max_runs: int | None = Field(default=None, ge=1)
    """No more than so many jobs are made; those of ``run-now`` don't count."""

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
            (("job",), f"'{{{{ {word} }}}}' is not known; {{{{ {SCHEDULED_TIME} }}}} is")
            for word in sorted(unknown)
        ]
        if faults:
            raise CrossFieldError(faults)
        return self

    @property
    def times(self) -> Cron:
        """When the schedule is due."""
        return Cron(self.cron, self.timezone)

    def job_at(self, tick: datetime) -> dict[str, Any]:
        """The job's spec, as a user would write it, for one time."""
        moment = tick.astimezone(self.times.local).isoformat()

        def filled(text: Any) -> Any:
            return _PLACEHOLDER.sub(moment, text) if isinstance(text, str) else text

        job = dict(self.job)
        if "name" in job:
            job["name"] = filled(job["name"])
        if isinstance(job.get("labels"), dict):
            job["labels"] = {key: filled(value) for key, value in job["labels"].items()}
        return job


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
