"""How often a job is tried."""

from __future__ import annotations

from pydantic import Field

from vicreg_platform.specs.base import SpecModel


class Retry(SpecModel):
    """Only infrastructure failures are retried: each attempt resumes from the last checkpoint."""

    max_attempts: int = Field(default=3, ge=1, le=100)
