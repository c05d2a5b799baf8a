"""The app, from its settings."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from vicreg_api import problems
from vicreg_api.body import BodyLimit
from vicreg_api.routers import cluster, health, jobs, schedules
from vicreg_api.services import Services
from vicreg_platform import __version__

MIGRATION_WAIT_SECONDS = 60.0


def create_app(services: Services) -> FastAPI:
    """The API on ``services``; the database is migrated when it starts."""

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
    )
    app.state.services = services
    app.add_middleware(BodyLimit)
    problems.install(app)
    for router in (jobs.router, schedules.router, cluster.router, health.router):
        app.include_router(router)
    return app
