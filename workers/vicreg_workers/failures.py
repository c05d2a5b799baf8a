"""How a job can fail, and the exit code that reports it.

* JobFailure
  - UserFailure
  - Diverged
  - OutOfMemory
  - InfrastructureFailure
    + Stopped

The exit codes are the contract with the dispatcher (``vicreg_platform.contract``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from vicreg_platform.contract.failure_class import FailureClass


class JobFailure(Exception):
    """A failure of a known class. The text is the reason shown to the user."""

    failure_class: ClassVar[FailureClass]


class UserFailure(JobFailure):
    """The spec or the data cannot work. Retrying would not help."""

    failure_class = FailureClass.USER


class Diverged(JobFailure):
    """The loss is not finite, or the embeddings collapsed."""

    failure_class = FailureClass.DIVERGED


class OutOfMemory(JobFailure):
    """A worker ran out of memory."""

    failure_class = FailureClass.OUT_OF_MEMORY


class InfrastructureFailure(JobFailure):
    """Something the job depends on broke. The next attempt resumes from the last checkpoint."""

    failure_class = FailureClass.INFRASTRUCTURE


class Stopped(InfrastructureFailure):
    """The machine asked the job to stop. Its state is saved."""


@contextmanager
def as_job_failures(out_of_memory_advice: str) -> Iterator[None]:
    """Turn the errors of ``selfsup`` and torch's out-of-memory error into job failures.

    Args:
        out_of_memory_advice: what the user can do when a GPU runs out of memory.
    """
    # Imported here: the driver of several workers starts 3 seconds sooner without torch.
    import torch

    from vicreg_workers.selfsup import errors

    try:
        yield
    except errors.InvalidInput as error:
        raise UserFailure(str(error)) from None
    except errors.Diverged as error:
        raise Diverged(str(error)) from None
    except errors.Stopped as error:
        raise Stopped(str(error)) from None
    except errors.Unreachable as error:
        raise InfrastructureFailure(str(error)) from None
    except torch.cuda.OutOfMemoryError as error:
        first_line = str(error).splitlines()[0]
        raise OutOfMemory(
            f"a GPU ran out of memory: {out_of_memory_advice} ({first_line})"
        ) from None


@contextmanager
def naming_held_images(size: int) -> Iterator[None]:
    """Have an out-of-memory error say what the images take of the GPU.

    Args:
        size: in bytes.
    """
    import torch

    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        if not size:
            raise
        first_line = str(error).splitlines()[0]
        raise OutOfMemory(
            f"a GPU ran out of memory, {size / 2**30:.2f} GiB of which hold the images: set "
            f"data.hold to never, or lower training.batch_size ({first_line})"
        ) from None
