"""Why a job failed, and the exit code by which its driver says so."""

from __future__ import annotations

import enum


class FailureClass(enum.StrEnum):
    """Why a job failed; only ``infrastructure`` is retried."""

    INFRASTRUCTURE = "infrastructure"
    USER = "user"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    """Decided by the dispatcher, which holds the clock; no driver reports it."""

    @property
    def exit_code(self) -> int:
        """The exit code by which a driver reports this class."""
        return _EXIT_CODES[self]

    @classmethod
    def of_exit_code(cls, code: int | None) -> FailureClass:
        """The class of an exit code; any code that a driver does not choose means it was killed."""
        return next(
            (known for known, own in _EXIT_CODES.items() if own == code), cls.INFRASTRUCTURE
        )


_EXIT_CODES = {
    FailureClass.USER: 64,
    FailureClass.DIVERGED: 65,
    FailureClass.OUT_OF_MEMORY: 66,
    FailureClass.INFRASTRUCTURE: 67,
}

FAILURE_LINE = "vicreg failure: "
"""The last line of a failed driver's log begins with this; the reason follows."""
