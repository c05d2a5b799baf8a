"""Refuses what the web pages of others send, through the browser of somebody who may.

A page can make a browser send requests to any address that the browser reaches, this machine's
own among them, and by a name that it points to that address (DNS rebinding) read the answers too.
A browser says where a request comes from, in headers that a page cannot change.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from vicreg_api import problems
from vicreg_api.access import SAFE_METHODS
from vicreg_api.body import BODY_TYPES
from vicreg_platform.errors import Forbidden, PlatformError, UnsupportedMediaType

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class BrowserGuard:
    """Checks Host, Origin, Sec-Fetch-Site and Content-Type.

    Args:
        app: what to pass requests on to.
        hosts: the names by which clients may call this service; None if any will do, because all
            of them need a key.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http":
            try:
                self._check(scope["method"], Headers(scope=scope))
            except PlatformError as error:
                await problems.respond(problems.problem_of(error))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, method: str, headers: Headers) -> None:
        host = headers.get("host", "")
        if self._hosts is not None and _name(host) not in self._hosts:
            raise Forbidden(
                f"this API is not '{_name(host)[:100]}': call it by localhost, or list the name in "
                "VICREG_API_HOSTS"
            )
        foreign = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        # A link from another page may be followed.
        followed = method == "GET" and headers.get("sec-fetch-mode") == "navigate"
        origin = headers.get("origin")
        if (foreign and not followed) or (
            origin is not None and origin.partition("://")[2].lower() != host.lower()
        ):
            raise Forbidden("a web page of another site may not use this API")
        body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        media_type = headers.get("content-type")
        if method not in SAFE_METHODS and body and media_type is not None:
            kind = media_type.partition(";")[0].strip().lower()
            if kind not in BODY_TYPES:
                raise UnsupportedMediaType(
                    f"a body of type '{kind[:100]}' is not read: send it as application/json or "
                    "application/yaml (curl: -H 'Content-Type: application/yaml')"
                )


def _name(host: str) -> str:
    """A Host header without its port and an IPv6 address's brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if host.count(":") == 1 else host.lower()
