"""The states of a job, and the one table of legal transitions.

::

    waiting ──→ queued ──→ starting ──→ running ──→ succeeded
       ↑          ↑           │            │   └──→ failed
       │          ├── retry ──┴────────────┤
       │          └── preempted, resized ──┤
       └── paused ←─────────────────── stopping ──→ cancelled | failed

``starting`` may end as ``running`` does (a short job can finish between two looks at it), and
``queued`` may fail (the job can never fit). ``waiting`` and ``queued`` jobs are cancelled, or fail
at their deadline, at once; a job on the cluster does either by way of ``stopping``. So it is with
a pause. A job that stops to be queued or paused may end before it has stopped.
"""

from __future__ import annotations

import enum
from typing import Self


class StoredEnum(enum.StrEnum):
    """Values that are stored: a newer version may have stored others, for which is ``unknown``."""

    @classmethod
    def read(cls, stored: str) -> Self:
        """A value as any version of the platform has stored it."""
        try:
            return cls(stored)
        except ValueError:
            return cls("unknown")


class JobState(StoredEnum):
    """The state of a job."""

    WAITING = "waiting"
    """Until its dependencies have finished and its start time has come."""
    QUEUED = "queued"
    """Until the cluster has room; after a failed attempt, until the next one."""
    STARTING = "starting"
    """Submitted to Ray; its driver is not up yet."""
    RUNNING = "running"
    """Its driver is up."""
    STOPPING = "stopping"
    """Cancelled, out of time, paused, or making room, and still on the cluster."""
    PAUSED = "paused"
    """Until its owner resumes it; nothing of it is on the cluster."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    """A newer version has stored another one: this one shows such a job, and leaves it alone."""


TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.WAITING: frozenset(
        {JobState.QUEUED, JobState.PAUSED, JobState.FAILED, JobState.CANCELLED}
    ),
    JobState.QUEUED: frozenset(
        {JobState.STARTING, JobState.PAUSED, JobState.FAILED, JobState.CANCELLED}
    ),
    JobState.STARTING: frozenset(
        {
            JobState.RUNNING,
            JobState.STOPPING,
            JobState.QUEUED,
            JobState.SUCCEEDED,
            JobState.FAILED,
        }
    ),
    JobState.RUNNING: frozenset(
        {JobState.STOPPING, JobState.QUEUED, JobState.SUCCEEDED, JobState.FAILED}
    ),
    JobState.STOPPING: frozenset(
        {
            JobState.STOPPING,  # for another cause
            JobState.QUEUED,
            JobState.PAUSED,
            JobState.SUCCEEDED,
            JobState.CANCELLED,
            JobState.FAILED,
        }
    ),
    JobState.PAUSED: frozenset({JobState.WAITING, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
    JobState.UNKNOWN: frozenset(),
}


class StopCause(enum.StrEnum):
    """Why a job on the cluster is stopped, and the outcome of its attempt.

    A later one in this list replaces an earlier one.
    """

    RESIZED = "resized"
    PREEMPTED = "preempted"
    PAUSED = "paused"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"

    @property
    def next_state(self) -> JobState:
        """What the job becomes when it has stopped."""
        return _AFTER_STOPPING[self]

    def replaces(self, other: StopCause) -> bool:
        """Whether it takes the place of a cause for which the job is stopping already."""
        causes = list(StopCause)
        return causes.index(self) > causes.index(other)


_AFTER_STOPPING = {
    StopCause.RESIZED: JobState.QUEUED,
    StopCause.PREEMPTED: JobState.QUEUED,
    StopCause.PAUSED: JobState.PAUSED,
    StopCause.TIMEOUT: JobState.FAILED,
    StopCause.CANCELLED: JobState.CANCELLED,
}
UNCOUNTED = frozenset({StopCause.RESIZED, StopCause.PREEMPTED, StopCause.PAUSED})
"""Attempts that ended for one of these do not count as retries."""

TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
ON_CLUSTER = frozenset({JobState.STARTING, JobState.RUNNING, JobState.STOPPING})
