"""Who makes a request, and whether they may: keys, roles, rate limits, and the audit log."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections.abc import Callable
from typing import Annotated
from urllib.parse import quote

from anyio.to_thread import run_sync
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vicreg_platform.errors import Forbidden, InvalidKey, TooManyRequests
from vicreg_platform.keys.schemas import Role
from vicreg_platform.keys.service import OPEN, Caller, KeyService

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
SESSION_COOKIE = "vicreg_session"
CSRF_HEADER = "X-CSRF-Token"
PATH_LENGTH = 200
"""How much of a path is recorded."""
_bearer = HTTPBearer(auto_error=False, description="An API key, as `vicreg keys create` prints it")


class RateLimit:
    """A token bucket per key: this many requests per minute, and as many at once.

    Args:
        per_minute: requests of each key.
        now: a monotonic clock, in seconds.
    """

    def __init__(self, per_minute: int, now: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._now = now
        self._buckets: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, key: str) -> None:
        """Count a request.

        Raises:
            TooManyRequests: with the seconds until there is room.
        """
        rate = self._per_minute / 60.0
        with self._lock:
            now = self._now()
            tokens, since = self._buckets.get(key, (float(self._per_minute), now))
            tokens = min(self._per_minute, tokens + (now - since) * rate)
            if tokens < 1.0:
                self._buckets[key] = (tokens, now)
                raise TooManyRequests(max(1.0, (1.0 - tokens) / rate))
            self._buckets[key] = (tokens - 1.0, now)


class Access:
    """Authenticates requests and admits them.

    Args:
        keys: the API keys.
        rate: the limit of requests that change something.
        loopback: whether only this machine reaches the API; it is then open until there is a key.
    """

    def __init__(self, keys: KeyService, rate: RateLimit, loopback: bool) -> None:
        self.keys = keys
        self._rate = rate
        self._loopback = loopback

    def caller(self, key: str | None) -> Caller:
        """The caller of a request.

        Raises:
            InvalidKey: the key is missing or not valid.
        """
        if key is not None:
            return self.keys.authenticate(key)
        if self._loopback and not self.keys.any():
            return OPEN
        raise InvalidKey(
            "an API key is required: `Authorization: Bearer vk_…`; `vicreg up` keeps one in its "
            "home, .vicreg/api-key: run `vicreg` in the folder that holds it, or set VICREG_HOME"
        )

    def admit(self, caller: Caller) -> None:
        """Admit a request that changes something.

        Raises:
            Forbidden: the caller may only read.
            TooManyRequests: the key has made too many.
        """
        if caller.role is Role.VIEWER:
            raise Forbidden("a viewer's key cannot change anything")
        if caller.key is not None:
            self._rate.take(caller.key)


def csrf_token(session: str) -> str:
    """What a browser must send with a request that changes something.

    It is derived from the session's token, which is in a cookie that no page can read: a page of
    another site, whose requests carry the cookie, cannot know it.
    """
    return hashlib.sha256(f"csrf {session}".encode()).hexdigest()


Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


def identified(request: Request, credentials: Credentials) -> Caller:
    """Who makes a request, by their API key or their browser's session.

    The token of the session, if it is one, is then ``request.state.session``.

    Raises:
        InvalidKey: neither is valid.
        Forbidden: a browser's request would change something, and has no CSRF token.
    """
    access: Access = request.app.state.access
    session = request.cookies.get(SESSION_COOKIE)
    if credentials is not None or session is None:
        return access.caller(credentials.credentials if credentials else None)
    try:
        caller = access.keys.authenticate_session(session)
    except InvalidKey:
        # A cookie of another service of this machine: cookies do not tell ports apart.
        return access.caller(None)
    given = request.headers.get(CSRF_HEADER, "")
    if request.method not in SAFE_METHODS and not hmac.compare_digest(
        given.encode(), csrf_token(session).encode()
    ):
        raise Forbidden(f"{CSRF_HEADER} is missing or wrong: reload the page")
    request.state.session = session
    return caller


def authenticated(request: Request, caller: Annotated[Caller, Depends(identified)]) -> Caller:
    """The caller of a request; one that may change something is recorded in the audit log first."""
    access: Access = request.app.state.access
    if request.method not in SAFE_METHODS:
        # Recorded once admitted: what is refused for its key must not fill the database.
        access.admit(caller)
        address = request.client.host if request.client else "unknown"
        path = quote(request.url.path)[:PATH_LENGTH]
        request.state.audit = access.keys.begin_audit(caller, address, request.method, path)
    return caller


InjectedCaller = Annotated[Caller, Depends(authenticated)]


def administrator(caller: InjectedCaller) -> Caller:
    """The caller, who must be an administrator."""
    if caller.role is not Role.ADMIN:
        raise Forbidden("only an administrator's key can do this")
    return caller


def check_owner(caller: Caller, owner: str | None, what: str) -> None:
    """Let users change only what is theirs.

    Raises:
        Forbidden: it belongs to someone else.
    """
    if caller.role is not Role.ADMIN and caller.name != owner:
        raise Forbidden(f"{what} is not yours: only {owner or 'administrators'} can change it")


class AuditStatus:
    """Records in the audit log how a request was answered."""

    def __init__(self, app: ASGIApp, keys: KeyService) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and observe the answer."""
        status, made = 500, None

        async def watched_send(message: Message) -> None:
            nonlocal status, made
            if message["type"] == "http.response.start":
                status, made = message["status"], Headers(raw=message["headers"]).get("location")
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        finally:
            entry = scope.get("state", {}).get("audit")
            if entry is not None:
                await run_sync(self._keys.end_audit, entry, status, made)
