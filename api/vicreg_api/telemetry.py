"""Serves ``/metrics`` to Prometheus, and times requests."""

from __future__ import annotations

import time

from fastapi import FastAPI, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Histogram,
    generate_latest,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vicreg_api.services import Services
from vicreg_platform.telemetry import UnfinishedJobs

REQUEST_SECONDS = Histogram(
    "vicreg_http_request_seconds",
    "Requests to the API, until the answer begins.",
    ["method", "route", "status"],
)


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Timed:
    """Times requests by their route."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and time the answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def watched_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                # By the route, not the path: each id would be a time series of its own.
                route = getattr(scope.get("route"), "path", "none")
                # Clients can invent methods, and each would be time series for ever.
                method = scope["method"] if scope["method"] in METHODS else "other"
                labels = (method, route, str(message["status"]))
                REQUEST_SECONDS.labels(*labels).observe(time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, watched_send)


def install(app: FastAPI, services: Services) -> None:
    """Serve the metrics of this process, and counts of the unfinished jobs."""
    # Not the global one: a process may create several apps.
    registry = CollectorRegistry()
    registry.register(UnfinishedJobs(services.jobs.unfinished))
    registry.register(REGISTRY)
    app.add_middleware(Timed)

    # Not a coroutine: the database may be slow, and other requests must not wait.
    @app.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
