"""What the API answers about the queue."""

from __future__ import annotations

from datetime import datetime

from vicreg_platform.jobs.schemas import QueuePlace
from vicreg_platform.jobs.states import JobState
from vicreg_platform.schema import Schema


class QueueEntry(QueuePlace):
    """A job that waits for room."""

    job_id: str
    name: str
    kind: str
    owner: str | None
    priority: int
    needs: str
    """In words: `2 × 1 CPU and 1 GPU`; of an elastic job, the least that it can run with."""
    workers: list[int] | None
    """The numbers of workers that an elastic job can run with."""
    reason: str | None
    """Why it waits."""
    made_room_for: str | None
    """The job that has taken its place."""


class Holder(Schema):
    """A job that occupies room."""

    job_id: str
    name: str
    kind: str
    owner: str | None
    priority: int
    state: JobState
    cpus: float
    gpus: float
    preemptible: bool
    since: datetime
    """When its attempt was submitted."""
    ends: datetime | None
    """When it is expected to end; null if nobody knows."""
    basis: str | None
    """What that rests on, as of a start."""


class OwnerShare(Schema):
    """What an owner has used of the cluster."""

    owner: str | None
    used: float
    """GPU-seconds, and CPU-seconds of jobs without GPUs; what is past counts less."""
    weight: float


class QueueSchema(Schema):
    """The queue as the scheduler sees it."""

    policy: str
    """`backfill` or `strict`."""
    at: datetime | None
    """When the scheduler last looked; null if it has not for a minute: positions are unknown."""
    total: int
    """Jobs that wait for room."""
    items: list[QueueEntry]
    """In order, up to `limit`."""
    holders: list[Holder]
    """The jobs on the cluster, up to `limit`, highest priority first."""
    shares: list[OwnerShare]
    """The owners with jobs in the queue or on the cluster, least used for their weight first."""
