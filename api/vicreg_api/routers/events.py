"""``/v1/events``: what happens to all jobs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse

from vicreg_api.access import Credentials, identified
from vicreg_api.feed import Feed
from vicreg_api.parameters import Cursor, Limit
from vicreg_api.services import InjectedServices
from vicreg_platform.errors import PlatformError
from vicreg_platform.jobs.schemas import JobEvent
from vicreg_platform.pages import Page

router = APIRouter(prefix="/v1/events", tags=["events"])


@router.get("")
def latest(services: InjectedServices, limit: Limit = 50, cursor: Cursor = None) -> Page[JobEvent]:
    """The events of all jobs, newest first."""
    return services.jobs.latest_events(limit, cursor)


@router.get(
    "/stream",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def stream(
    request: Request,
    credentials: Credentials,
    last_event_id: Annotated[
        int | None, Header(ge=0, description="Of the last event received: those since are sent")
    ] = None,
) -> StreamingResponse:
    """Every event as it happens, at most a second late, as server-sent events.

    `job` carries an event as `GET /v1/events` lists it; `progress` how far a job on the cluster
    is; `alive`, every few seconds, that what was sent before is still so. An event may be sent
    twice.
    """
    feed: Feed = request.app.state.feed

    def permitted() -> bool:
        try:
            identified(request, credentials)
        except PlatformError:
            return False
        return True

    return StreamingResponse(
        feed.stream(await feed.subscribe(), last_event_id, permitted),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )
