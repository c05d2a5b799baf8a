"""``/v1/cluster``."""

from __future__ import annotations

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
    return ClusterSchema(
        nodes=[Amount.of(node) for node in capacity.nodes],
        total=Amount.of(capacity.total),
        used=Amount.of(capacity.used),
    )


@router.get("/nodes")
async def nodes(services: InjectedServices) -> Page[NodeSchema]:
    """The machines that are up, and the jobs on each."""
    found = await in_thread(NEIGHBOURS, services.cluster.machines)
    return Page(items=[NodeSchema.of(node) for node in found])
