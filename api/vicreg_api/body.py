"""The body of a request: JSON or YAML, up to 1 MiB."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from anyio.to_thread import run_sync
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vicreg_api import problems
from vicreg_platform.documents import load_json, load_yaml
from vicreg_platform.errors import BodyTooLarge, InvalidRequest, InvalidSpec

MAX_BYTES = 1024 * 1024
_YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml")
BODY_TYPES = ("application/json", "application/merge-patch+json", *_YAML_TYPES)


async def parsed_body(request: Request) -> Any:
    """The body as data: YAML if the content type says so, else JSON.

    Raises:
        InvalidRequest: it is neither.
        InvalidSpec: a value cannot be stored.
    """
    body = await request.body()
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    # In a thread: a megabyte of YAML takes seconds to parse, and other requests must not wait.
    return await run_sync(load_yaml if media_type in _YAML_TYPES else load_json, body)


class StrictJsonRoute(APIRoute):
    """Reads JSON bodies as strictly as ``parsed_body`` does, for endpoints whose body is typed.

    FastAPI's own parser takes the last of two fields of one name, and NaN.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See ``APIRoute``."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def checked(request: Request) -> Response:
            body = await request.body()
            if body:
                try:
                    await run_sync(load_json, body)
                except InvalidSpec as error:  # this body is no spec
                    raise InvalidRequest(str(error)) from None
            return await handle(request)

        return checked


class BodyLimit:
    """Refuses bodies over 1 MiB, whether or not they declare their length."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and count what it sends."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > MAX_BYTES:
            refusal = problems.respond(problems.problem_of(_too_large()))
            await refusal(scope, receive, send)
            return
        received = 0

        async def limited_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BYTES:
                raise _too_large()
            return message

        await self._app(scope, limited_receive, send)


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(f"the body is over {MAX_BYTES // 1024} KiB, the limit for a spec")
