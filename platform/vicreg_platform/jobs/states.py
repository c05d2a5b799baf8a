"""The states of a job, and the one table of legal transitions.

::

    waiting ──→ queued ──→ starting ──→ running ──→ succeeded
                  ↑           │            │   └──→ failed
                  └── retry ──┴────────────┘
                              └──→ stopping ──→ cancelled | failed

``starting`` may end as ``running`` does (a short job can finish between two looks at it), and
``queued`` may fail (the job can never fit). ``waiting`` and ``queued`` jobs are cancelled, or fail
at their deadline, at once; a job on the cluster does either by way of ``stopping``.
"""

from __future__ import annotations

import enum


class JobState(enum.StrEnum):
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
    """Cancelled or out of time, and still on the cluster."""
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
