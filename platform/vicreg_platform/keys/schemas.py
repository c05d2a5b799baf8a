"""What the API answers about keys."""

from __future__ import annotations

import enum
from datetime import datetime

from vicreg_platform.jobs.schemas import View


class Role(enum.StrEnum):
    """What the holder of a key may do."""

    ADMIN = "admin"
    """Everything."""
    USER = "user"
    """See everything, make jobs and schedules, and change their own."""
    VIEWER = "viewer"
    """See everything."""


class KeyView(View):
    """An API key, without the key."""

    prefix: str
    """The key's public part."""
    name: str
    """Whose it is."""
    role: Role
    max_jobs: int | None
    """Jobs that its owner may have that have not ended."""
    max_gpus: int | None
    """GPUs that those jobs may ask for, all together."""
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    """To the minute."""
    revoked_at: datetime | None


class NewKey(KeyView):
    """A key that was just made: the only time that it is shown."""

    key: str


class KeyList(View):
    """All keys, newest first."""

    items: list[KeyView]


class AuditView(View):
    """A request that changed something, or that its key did not allow."""

    id: int
    at: datetime
    name: str
    key: str | None
    """The key's public part; null where the API is open."""
    address: str
    method: str
    path: str
    status: int | None
    """How it was answered; null where the API died before it could say."""
    made: str | None
    """Where what it made is."""


class AuditPage(View):
    """Some of the audit log, newest first."""

    items: list[AuditView]
    next_cursor: str | None
