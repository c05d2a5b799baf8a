"""The checkpoints of a pretraining. Its first worker writes to its run which there are."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

CHECKPOINTS = "checkpoints"
"""The folder of a job's checkpoints: in the storage, and among the artifacts of its run."""
MANIFEST = "manifest.json"
"""The file of a checkpoint that is written last: a folder without it is not one."""
CHECKPOINT_NAME = re.compile(r"step-(\d{8}|[1-9]\d{8,14})")
MOST_TOLD = 20
"""How many checkpoints are told of, the newest: MLflow cuts a tag at 8,000 characters."""


Count = Annotated[int, Field(ge=0, lt=2**53)]
"""Also of bytes. JSON's numbers are exact up to here."""


def name_of_checkpoint(step: int) -> str:
    """The name of a checkpoint's folder: ``step-00000044``."""
    return f"step-{step:08d}"


class StoredCheckpoint(BaseModel):
    """A complete checkpoint in the storage."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    step: Count
    saved_at: AwareDatetime | None
    """When the state was taken, by the clock of the node; null before 0.3.0."""
    size: Count
    """In bytes, of all its files."""
    workers: Count
    """By how many it was saved."""


class CheckpointReport(BaseModel):
    """Which checkpoints of a job there are."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    folder: str
    """Where they are in the storage, as the workers see it."""
    checkpoints: tuple[StoredCheckpoint, ...] = ()
    """The newest ``MOST_TOLD``, oldest first."""
    total: Count = 0
    """How many there are."""


def read_checkpoint_report(written: str | None) -> CheckpointReport | None:
    """The report that was written as JSON; None if it cannot be read."""
    try:
        return None if written is None else CheckpointReport.model_validate_json(written)
    except ValidationError:
        return None
