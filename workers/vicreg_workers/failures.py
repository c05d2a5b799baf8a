"""How a job can fail, and the exit code by which the driver says so.

The codes are the contract with the dispatcher (``vicreg_platform.contract.assignment``).
"""

from __future__ import annotations

from typing import ClassVar

from vicreg_platform.contract.assignment import FailureClass


class JobFailure(Exception):
    """A failure whose class is known. Its text is the reason that the user reads."""

    failure_class: ClassVar[FailureClass]


class UserFailure(JobFailure):
    """The spec or the data cannot work; trying again would not help."""

    failure_class = FailureClass.USER


class Diverged(JobFailure):
    """The loss is not finite, or the embeddings collapsed."""

    failure_class = FailureClass.DIVERGED


class OutOfMemory(JobFailure):
    """A worker ran out of memory."""

    failure_class = FailureClass.OUT_OF_MEMORY


class InfrastructureFailure(JobFailure):
    """Something beneath the job broke; another attempt goes on from the last checkpoint."""

    failure_class = FailureClass.INFRASTRUCTURE


class Stopped(InfrastructureFailure):
    """The machine asked the run to end; its state is saved."""
