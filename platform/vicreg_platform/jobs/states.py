"""The states of a job, and the one table of legal transitions.

::

    waiting ──→ queued ──→ starting ──→ running ──→ succeeded
                  ↑           │            │   └──→ failed
                  └── retry ──┴────────────┘
                              └──→ stopping ──→ cancelled | failed

Short cuts: ``starting`` may end like ``running`` (a driver can be quicker than a look at it),
``queued`` may fail (it can never fit), and ``waiting`` and ``queued`` are cancelled at once, as
they fail at once when their time is over. A job on the cluster whose time is over fails by way of
``stopping``.
"""

from __future__ import annotations

import enum


class JobState(enum.StrEnum):
    """Where a job is in its life."""

    WAITING = "waiting"
    """Until the jobs that it depends on have ended and its moment has come."""
    QUEUED = "queued"
    """Until the cluster has room, and after a failure until the next attempt."""
    STARTING = "starting"
    """Handed to Ray; its driver is not up yet."""
    RUNNING = "running"
    """Its driver is up."""
    STOPPING = "stopping"
    """Cancelled or out of time, and not yet gone from the cluster."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.WAITING: frozenset({JobState.QUEUED, JobState.FAILED, JobState.CANCELLED}),
    JobState.QUEUED: frozenset({JobState.STARTING, JobState.FAILED, JobState.CANCELLED}),
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
    JobState.STOPPING: frozenset({JobState.CANCELLED, JobState.FAILED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}

TERMINAL = frozenset(state for state, targets in TRANSITIONS.items() if not targets)
ON_CLUSTER = frozenset({JobState.STARTING, JobState.RUNNING, JobState.STOPPING})


def is_legal(before: JobState, after: JobState) -> bool:
    """Whether a job may go from ``before`` to ``after``."""
    return after in TRANSITIONS[before]
