"""All SQL of keys and of the audit log. Every method runs inside the caller's transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import delete, exists, or_, select, update
from sqlalchemy.orm import Session

from vicreg_platform.database import insert_if_absent
from vicreg_platform.errors import NotFound
from vicreg_platform.keys.tables import ApiKey, AuditEntry, BrowserSession


class KeyRepository:
    """Keys and the audit log.

    Args:
        session: an open transaction.
        now: the time that every row written by it carries.
    """

    def __init__(self, session: Session, now: datetime) -> None:
        self._session = session
        self._now = now

    def add(self, **values: Any) -> bool:
        """Store a key; False if one with its prefix exists."""
        return insert_if_absent(self._session, ApiKey, values | {"created_at": self._now})

    def get(self, prefix: str) -> ApiKey:
        """One key.

        Raises:
            NotFound: there is no such key.
        """
        key = self._session.get(ApiKey, prefix)
        if key is None:
            raise NotFound("there is no key with this public part: `vicreg keys list` shows them")
        return key

    def live(self, prefix: str) -> ApiKey | None:
        """A key that is neither revoked nor expired."""
        return self._session.scalar(select(ApiKey).where(ApiKey.prefix == prefix, *self._live()))

    def any(self) -> bool:
        """Whether there has ever been a key."""
        return bool(self._session.scalar(select(exists().where(ApiKey.prefix.is_not(None)))))

    def live_admins(self) -> list[str]:
        """Prefixes of the valid administrators' keys, locked until the transaction ends."""
        query = select(ApiKey.prefix).where(ApiKey.role == "admin", *self._live())
        return list(self._session.scalars(query.with_for_update()))

    def all(self) -> list[ApiKey]:
        """All keys, newest first."""
        query = select(ApiKey).order_by(ApiKey.created_at.desc(), ApiKey.prefix)
        return list(self._session.scalars(query))

    def quota(self, name: str) -> tuple[int | None, int | None]:
        """How many jobs and GPUs an owner may have: the limits of their newest key.

        The key is locked until the transaction ends: of two concurrent jobs, one counts the other.
        """
        query = (
            select(ApiKey.max_jobs, ApiKey.max_gpus)
            .where(ApiKey.name == name)
            .order_by(ApiKey.created_at.desc())
            .limit(1)
            .with_for_update()
        )
        found = self._session.execute(query).first()
        return (None, None) if found is None else (found.max_jobs, found.max_gpus)

    def max_priority(self, name: str) -> int | None:
        """The highest priority that an owner may give a job: the limit of their newest key."""
        return self._session.scalar(
            select(ApiKey.max_priority)
            .where(ApiKey.name == name)
            .order_by(ApiKey.created_at.desc())
            .limit(1)
        )

    def weights(self) -> dict[str, float]:
        """The weight of each owner who has one of their own: that of their newest key."""
        query = select(ApiKey.name, ApiKey.weight).order_by(ApiKey.created_at)
        newest = {row.name: row.weight for row in self._session.execute(query)}
        return {name: weight for name, weight in newest.items() if weight is not None}

    def used(self, prefix: str) -> None:
        """Record that a key was used."""
        self._session.execute(
            update(ApiKey).where(ApiKey.prefix == prefix).values(last_used_at=self._now)
        )

    def add_session(self, digest: str, key: str, expires_at: datetime) -> None:
        """Store a browser's session; those that have expired are deleted."""
        self._session.execute(delete(BrowserSession).where(BrowserSession.expires_at <= self._now))
        self._session.add(
            BrowserSession(digest=digest, key=key, created_at=self._now, expires_at=expires_at)
        )

    def live_of_session(self, digest: str) -> ApiKey | None:
        """The valid key with which a browser has signed in."""
        return self._session.scalar(
            select(ApiKey)
            .join(BrowserSession, BrowserSession.key == ApiKey.prefix)
            .where(
                BrowserSession.digest == digest,
                BrowserSession.expires_at > self._now,
                *self._live(),
            )
        )

    def delete_session(self, digest: str) -> None:
        """Delete a browser's session."""
        self._session.execute(delete(BrowserSession).where(BrowserSession.digest == digest))

    def revoke(self, prefix: str) -> None:
        """Revoke a key."""
        self._session.execute(
            update(ApiKey)
            .where(ApiKey.prefix == prefix, ApiKey.revoked_at.is_(None))
            .values(revoked_at=self._now)
        )

    def revoke_others(self, name: str, prefix: str) -> None:
        """Revoke the keys of a name, except one."""
        self._session.execute(
            update(ApiKey)
            .where(ApiKey.name == name, ApiKey.prefix != prefix, ApiKey.revoked_at.is_(None))
            .values(revoked_at=self._now)
        )

    def begin_audit(self, **values: Any) -> int:
        """Record a request before it is acted on."""
        entry = AuditEntry(at=self._now, **values)
        self._session.add(entry)
        self._session.flush()
        return entry.id

    def end_audit(self, entry: int, status: int, made: str | None) -> None:
        """Record how a request was answered."""
        self._session.execute(
            update(AuditEntry).where(AuditEntry.id == entry).values(status=status, made=made)
        )

    def audit(self, limit: int, before: int | None) -> list[AuditEntry]:
        """Up to ``limit`` entries, newest first, older than the entry ``before``."""
        query = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(limit)
        if before is not None:
            query = query.where(AuditEntry.id < before)
        return list(self._session.scalars(query))

    def _live(self) -> tuple[Any, ...]:
        return (
            ApiKey.revoked_at.is_(None),
            or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > self._now),
        )
