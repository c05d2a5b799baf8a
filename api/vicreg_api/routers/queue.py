"""``/v1/queue``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from vicreg_api.services import InjectedServices
from vicreg_platform.dispatch.queue_snapshot import SHOWN
from vicreg_platform.jobs.queue_schemas import QueueSchema

Shown = Annotated[int, Query(ge=1, le=SHOWN, description="Jobs of each kind, at most")]
router = APIRouter(prefix="/v1/queue", tags=["queue"])


@router.get("")
def get(services: InjectedServices, limit: Shown = 100) -> QueueSchema:
    """The jobs that wait for room, in the scheduler's order, and those that occupy it."""
    return services.queue.queue(limit)
