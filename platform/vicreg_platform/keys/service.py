"""The use cases of API keys. One use case is one transaction."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from vicreg_platform.clock import Clock, utc_now
from vicreg_platform.database import Database
from vicreg_platform.errors import Conflict, DatabaseUnavailable, InvalidKey
from vicreg_platform.keys.repository import KeyRepository
from vicreg_platform.keys.schemas import AuditSchema, KeySchema, NewKey, Role
from vicreg_platform.keys.tables import ApiKey
from vicreg_platform.pages import Page, number_of, page_of

KEY = re.compile(r"vk_([0-9a-f]{8})_[A-Za-z0-9_-]{32,}")
SESSION = timedelta(days=7)
"""How long a browser stays signed in."""
USED_SECONDS = 60
"""The last use is recorded to this precision: not every request writes."""


@dataclass(frozen=True)
class Caller:
    """Who makes a request."""

    name: str | None
    """The owner of the key; None if the API is open."""
    role: Role
    key: str | None = None
    """The key's public part."""


FIRST = "first"
"""The name of the key that comes from ``VICREG_API_KEY``."""
OPEN = Caller(None, Role.ADMIN)
"""Everyone, if the API has no keys and listens on loopback."""


def new_key() -> str:
    """A new key: 256 random bits behind a public prefix."""
    return f"vk_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"


class KeyService:
    """The use cases of keys.

    Args:
        database: where they are stored.
        now: the clock.
    """

    def __init__(self, database: Database, now: Clock = utc_now) -> None:
        self._database = database
        self._now = now

    def any(self) -> bool:
        """Whether there has ever been a key."""
        with self._database.read() as session:
            return KeyRepository(session, self._now()).any()

    def any_administrator(self) -> bool:
        """Whether there is a valid administrator's key."""
        with self._database.read() as session:
            return bool(KeyRepository(session, self._now()).live_admins())

    def authenticate(self, key: str) -> Caller:
        """Who holds a key.

        Raises:
            InvalidKey: it is unknown, revoked or expired; the message does not say which.
        """
        match = KEY.fullmatch(key)
        prefix = match[1] if match else ""
        with self._database.read() as session:
            found = KeyRepository(session, self._now()).live(prefix)
        # The same work whether or not there is such a key.
        if not hmac.compare_digest(found.digest if found else "", _digest(key)) or found is None:
            raise InvalidKey("the API key is not valid: unknown, revoked or expired")
        self._note_use(found)
        return Caller(found.name, Role(found.role), found.prefix)

    def sign_in(self, key: str) -> str:
        """Begin a browser's session, which ends with its key, at the latest.

        Returns:
            Its token, which the browser keeps; what is stored is its digest.

        Raises:
            InvalidKey: the key is unknown, revoked or expired.
        """
        caller = self.authenticate(key)
        assert caller.key is not None
        token = secrets.token_urlsafe(32)
        with self._database.write() as session:
            now = self._now()
            KeyRepository(session, now).add_session(_digest(token), caller.key, now + SESSION)
        return token

    def authenticate_session(self, token: str) -> Caller:
        """Who has signed in.

        Raises:
            InvalidKey: the session has ended, or its key is no longer valid.
        """
        with self._database.read() as session:
            found = KeyRepository(session, self._now()).live_of_session(_digest(token))
        if found is None:
            raise InvalidKey("the session has ended: sign in again")
        self._note_use(found)
        return Caller(found.name, Role(found.role), found.prefix)

    def sign_out(self, token: str) -> None:
        """End a browser's session."""
        with self._database.write() as session:
            KeyRepository(session, self._now()).delete_session(_digest(token))

    def create(
        self,
        name: str,
        role: Role,
        expires_in: timedelta | None = None,
        max_jobs: int | None = None,
        max_gpus: int | None = None,
        max_priority: int | None = None,
        weight: float | None = None,
    ) -> NewKey:
        """Create a key. Only the answer contains it: what is stored is its digest.

        Raises:
            Conflict: it would be the first, and nobody could create others.
        """
        if role is not Role.ADMIN and not self.any():
            raise Conflict("the first key must be an administrator's, who creates the others")
        key = new_key()
        expires_at = None if expires_in is None else self._now() + expires_in
        limits = {
            "max_jobs": max_jobs,
            "max_gpus": max_gpus,
            "max_priority": max_priority,
            "weight": weight,
        }
        self._add(key, name, role, expires_at, **limits)
        with self._database.read() as session:
            stored = KeyRepository(session, self._now()).get(_prefix(key))
        return NewKey(key=key, **_answer(stored).model_dump())

    def ensure(self, key: str) -> None:
        """Store a key that was made elsewhere as an administrator's, unless it is stored already.

        It replaces the previous one: a rotated key must stop working.

        Raises:
            InvalidKey: it does not have the form of a key.
        """
        if not KEY.fullmatch(key):
            raise InvalidKey(
                "VICREG_API_KEY must be vk_, 8 hex digits, _ and at least 32 random characters: "
                "`make compose-env` makes one"
            )
        if self._add(key, FIRST, Role.ADMIN):
            with self._database.write() as session:
                KeyRepository(session, self._now()).revoke_others(FIRST, _prefix(key))

    def all(self) -> Page[KeySchema]:
        """All keys, newest first, on one page."""
        with self._database.read() as session:
            keys = KeyRepository(session, self._now()).all()
        return Page(items=[_answer(key) for key in keys])

    def revoke(self, prefix: str) -> KeySchema:
        """End a key's use.

        Raises:
            NotFound: there is no such key.
            Conflict: it is the last administrator's.
        """
        with self._database.write() as session:
            repository = KeyRepository(session, self._now())
            repository.get(prefix)
            if repository.live_admins() == [prefix]:
                raise Conflict(f"key {prefix} is the last administrator's: create another first")
            repository.revoke(prefix)
            session.expire_all()
            return _answer(repository.get(prefix))

    def begin_audit(self, caller: Caller, address: str, method: str, path: str) -> int:
        """Record a request before it is acted on: who, from where, what."""
        with self._database.write() as session:
            return KeyRepository(session, self._now()).begin_audit(
                name=caller.name or "anyone",
                key=caller.key,
                address=address,
                method=method,
                path=path,
            )

    def end_audit(self, entry: int, status: int, made: str | None) -> None:
        """Record how a request was answered, and the address of what it created."""
        with self._database.write() as session:
            KeyRepository(session, self._now()).end_audit(entry, status, made)

    def audit(self, limit: int, cursor: str | None) -> Page[AuditSchema]:
        """A page of the audit log, newest first."""
        with self._database.read() as session:
            found = KeyRepository(session, self._now()).audit(limit + 1, number_of(cursor))
        items = [
            AuditSchema(**{name: getattr(entry, name) for name in AuditSchema.model_fields})
            for entry in found
        ]
        return page_of(items, limit, lambda entry: entry.id)

    def _add(
        self,
        key: str,
        name: str,
        role: Role,
        expires_at: datetime | None = None,
        **limits: float | None,
    ) -> bool:
        """Store a key; False if it is stored already."""
        with self._database.write() as session:
            return KeyRepository(session, self._now()).add(
                prefix=_prefix(key),
                digest=_digest(key),
                name=name,
                role=role.value,
                expires_at=expires_at,
                **limits,
            )

    def _note_use(self, key: ApiKey) -> None:
        now = self._now()
        if key.last_used_at is None or now - key.last_used_at > timedelta(seconds=USED_SECONDS):
            # A request does not fail because another transaction has locked the key.
            with suppress(DatabaseUnavailable), self._database.write() as session:
                KeyRepository(session, now).used(key.prefix)


def _prefix(key: str) -> str:
    return key.split("_")[1]


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _answer(key: ApiKey) -> KeySchema:
    return KeySchema(**{name: getattr(key, name) for name in KeySchema.model_fields})
