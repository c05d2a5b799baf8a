"""When an attempt reached what: written by its processes, read by the dispatcher."""

from __future__ import annotations

from datetime import datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError


class Timeline(BaseModel):
    """The moments of an attempt, each by the clock of the node that reached it.

    A moment that it has not reached, or that a job of its kind does not have, is null. When workers
    are restarted within an attempt, those of the last ones count.
    """

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    driver_up: AwareDatetime | None = None
    """The driver runs."""
    workers_up: AwareDatetime | None = None
    """The first of several workers runs."""
    process_group_up: AwareDatetime | None = None
    """The workers are connected with each other."""
    data_open: AwareDatetime | None = None
    """The images have been found and listed."""
    network_built: AwareDatetime | None = None
    """The network is on its device; of an evaluation, the encoder."""
    first_step: AwareDatetime | None = None
    """The first optimiser step of these processes is done."""
    last_step: AwareDatetime | None = None
    """The last optimiser step is done; of an evaluation, the measurement."""
    published: AwareDatetime | None = None
    """MLflow has all that the run has made."""

    def reached(self) -> dict[str, datetime]:
        """The moments that the attempt has reached, by name."""
        return {name: at for name, at in self if at is not None}


class AttemptTimeline(BaseModel):
    """A timeline with its attempt, as it is written to the run."""

    attempt: int
    timeline: Timeline


def read_timeline(written: str | None) -> AttemptTimeline | None:
    """The timeline that was written as JSON; None if it cannot be read."""
    try:
        return None if written is None else AttemptTimeline.model_validate_json(written)
    except ValidationError:
        return None
