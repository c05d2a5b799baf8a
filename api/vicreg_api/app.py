"""The FastAPI app."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI

from vicreg_api import console, problems, telemetry
from vicreg_api.access import Access, AuditStatus, RateLimit, authenticated
from vicreg_api.body import BodyLimit
from vicreg_api.browsers import LOOPBACK_NAMES, BrowserGuard
from vicreg_api.feed import Feed
from vicreg_api.routers import (
    cluster,
    events,
    health,
    jobs,
    keys,
    metrics,
    queue,
    recipes,
    schedules,
    session,
)
from vicreg_api.services import Services
from vicreg_platform import __version__

MIGRATION_WAIT_SECONDS = 60.0


def create_app(
    services: Services,
    *,
    loopback: bool = True,
    per_minute: int = 120,
    hosts: tuple[str, ...] | None = None,
) -> FastAPI:
    """The API on ``services``; the database is migrated at its start.

    Args:
        services: what the routes use.
        loopback: whether only this machine reaches it; it is then open until there is a key.
        per_minute: how many requests that change something a key may make per minute.
        hosts: names by which clients may call it; default: those of this machine on loopback, else
            any.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        services.database.migrate(wait_seconds=MIGRATION_WAIT_SECONDS)
        yield
        services.database.dispose()

    app = FastAPI(
        title="VICReg platform",
        version=__version__,
        summary="Pretrain image encoders with VICReg on a Ray cluster, and evaluate them.",
        lifespan=lifespan,
        # Both would load their scripts from elsewhere: the console has a page of its own.
        docs_url=None,
        redoc_url=None,
    )
    app.state.services = services
    app.state.readiness = health.questions(services)
    app.state.feed = Feed(services.jobs)
    app.state.access = Access(services.keys, RateLimit(per_minute), loopback)
    app.add_middleware(BodyLimit)
    app.add_middleware(AuditStatus, keys=services.keys)
    problems.install(app)
    telemetry.install(app, services)
    if loopback or hosts is not None:
        names = LOOPBACK_NAMES | frozenset(hosts or ())
    else:
        names = None
    app.add_middleware(BrowserGuard, hosts=names)
    for part in (jobs, queue, metrics, events, schedules, recipes, cluster, keys):
        app.include_router(part.router, dependencies=[Depends(authenticated)])
    app.include_router(session.router)
    app.include_router(health.router)
    console.install(app)
    return app
