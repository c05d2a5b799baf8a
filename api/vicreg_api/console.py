"""Serves the console, a page that uses the API as any client does, and its headers.

Its files are built from ``api/console`` into this package. A checkout of which they have not been
built serves the API alone.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse, PlainTextResponse
from starlette.datastructures import MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FILES = Path(__file__).parent / "console_files"
"""What the build writes: see ``api/console/hatch_build.py``."""
SCREENS = (
    "/",
    "/jobs",
    "/queue",
    "/jobs/{_:path}",
    "/compare",
    "/schedules",
    "/schedules/{_:path}",
    "/cluster",
    "/models",
    "/keys",
    "/new",
)
"""The addresses of the console's screens: each is the same page."""
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        # The component set and the editor write style attributes.
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
YEAR = 31_536_000


class SafeHeaders:
    """Tells browsers what a page of this service may do: run its own scripts, and no others."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and add the headers to its answer."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = POLICY
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "same-origin"
            await send(message)

        await self._app(scope, receive, with_headers)


class Compressed:
    """Compresses answers, but not those that are sent as they come."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._compressing = GZipMiddleware(app, minimum_size=1024)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        path = scope.get("path", "")
        streamed = path.endswith(("/logs", "/stream")) or "/artifacts/" in path
        await (self._app if streamed else self._compressing)(scope, receive, send)


class Assets(StaticFiles):
    """Files whose names change with their content."""

    def file_response(self, *arguments: object, **more: object) -> Response:
        """See ``StaticFiles``."""
        answer = super().file_response(*arguments, **more)  # type: ignore[arg-type]
        answer.headers["Cache-Control"] = f"public, max-age={YEAR}, immutable"
        return answer


def install(app: FastAPI) -> None:
    """Serve the console at ``/`` and the page of the OpenAPI document at ``/docs``."""
    app.add_middleware(Compressed)
    app.add_middleware(SafeHeaders)
    if (FILES / "assets").is_dir():
        app.mount("/assets", Assets(directory=FILES / "assets"))
    for path in SCREENS:
        app.add_api_route(path, _screen, include_in_schema=False)
    app.add_api_route("/docs", _reference, include_in_schema=False)
    app.add_api_route("/favicon.svg", _icon, include_in_schema=False)


def _screen() -> Response:
    return _page("index.html")


def _reference() -> Response:
    return _page("reference.html")


def _icon() -> Response:
    return _page("favicon.svg")


def _page(name: str) -> Response:
    file = FILES / name
    if not file.is_file():
        return PlainTextResponse(
            "The console is not built: `make install` builds it. The API is at /v1.",
            status_code=404,
        )
    return FileResponse(file, headers={"Cache-Control": "no-cache"})
