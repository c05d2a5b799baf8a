"""``/v1/cluster``."""

from __future__ import annotations

from anyio.to_thread import run_sync
from fastapi import APIRouter

from vicreg_api.services import InjectedServices
from vicreg_api.threads import NEIGHBOURS, in_thread
from vicreg_platform.cluster.schemas import Amount, ClusterSchema, NodeSchema
from vicreg_platform.pages import Page

router = APIRouter(prefix="/v1/cluster", tags=["cluster"])


@router.get("")
async def get(services: InjectedServices) -> ClusterSchema:
    """The resources of the Ray cluster. What is in use lags by a few seconds."""
    capacity = await in_thread(NEIGHBOURS, services.cluster.capacity)
    waited_for = await run_sync(services.jobs.waited_for)
    return ClusterSchema(
        nodes=[Amount.of(node) for node in capacity.nodes],
        total=Amount.of(capacity.total),
        used=Amount.of(capacity.used),
        waited_for=Amount.of(waited_for),
    )


@router.get("/nodes")
async def nodes(services: InjectedServices) -> Page[NodeSchema]:
    """The machines that are up, and the jobs on each."""
    found = await in_thread(NEIGHBOURS, services.cluster.machines)
    return Page(items=[NodeSchema.of(node) for node in found])
