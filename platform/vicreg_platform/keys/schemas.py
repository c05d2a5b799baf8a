"""What the API answers about keys."""

from __future__ import annotations

import enum
from datetime import datetime

from vicreg_platform.schema import Schema


class Role(enum.StrEnum):
    """What the holder of a key may do."""

    ADMIN = "admin"
    """Everything."""
    USER = "user"
    """See everything, submit jobs and schedules, and change their own."""
    VIEWER = "viewer"
    """See everything."""


class KeySchema(Schema):
    """An API key, without the key."""

    prefix: str
    """The key's public part."""
    name: str
    """Whose it is."""
    role: Role
    max_jobs: int | None
    """Unfinished jobs that its owner may have."""
    max_gpus: int | None
    """GPUs that those jobs may request in total."""
    max_priority: int | None = None
    """The highest priority that it may give a job."""
    weight: float | None = None
    """Of its owner's share of the cluster; null is 1."""
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    """To the minute."""
    revoked_at: datetime | None


class SessionSchema(Schema):
    """Who the caller is."""

    name: str | None
    """The owner of the key; null if the API is open."""
    role: Role
    key: str | None
    """The key's public part."""
    csrf: str | None
    """Of a browser that has signed in: what it must send as `X-CSRF-Token` to change anything."""


class NewKey(KeySchema):
    """A new key: the only time that it is shown."""

    key: str


class AuditSchema(Schema):
    """A request that changed something, or was not allowed to."""

    id: int
    at: datetime
    name: str
    key: str | None
    """The key's public part; null if the API is open."""
    address: str
    method: str
    path: str
    status: int | None
    """The HTTP status of the answer; null if the API died before it answered."""
    made: str | None
    """The address of what it created."""
