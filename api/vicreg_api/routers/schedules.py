"""``/v1/schedules``."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response, status

from vicreg_api.access import InjectedCaller, check_owner
from vicreg_api.body import StrictJsonRoute, parsed_body
from vicreg_api.examples import SCHEDULE_BODY
from vicreg_api.parameters import Cursor, Identifier, Limit
from vicreg_api.problems import Problem
from vicreg_api.services import InjectedServices
from vicreg_platform.errors import InvalidRequest
from vicreg_platform.jobs.schemas import JobSchema
from vicreg_platform.pages import Page
from vicreg_platform.schedules.schemas import ScheduleSchema, TickSchema
from vicreg_platform.specs.base import Moment

router = APIRouter(
    prefix="/v1/schedules",
    tags=["schedules"],
    route_class=StrictJsonRoute,
    responses={
        404: {"model": Problem, "description": "No such schedule"},
        422: {"model": Problem, "description": "Every fault of the request"},
        503: {"model": Problem, "description": "The database is unreachable"},
    },
)


def _own(services: InjectedServices, caller: InjectedCaller, schedule_id: Identifier) -> str:
    """The id of a schedule that the caller may change."""
    check_owner(caller, services.schedules.get(schedule_id).owner, f"schedule {schedule_id}")
    return schedule_id


OwnSchedule = Annotated[str, Depends(_own)]


@router.post("", status_code=status.HTTP_201_CREATED, openapi_extra=SCHEDULE_BODY)
def create(
    services: InjectedServices,
    response: Response,
    caller: InjectedCaller,
    spec: Annotated[Any, Depends(parsed_body)],
) -> ScheduleSchema:
    """Create a schedule. The body is JSON, or YAML with `Content-Type: application/yaml`."""
    schedule = services.schedules.create(spec, caller.name)
    response.headers["Location"] = f"/v1/schedules/{schedule.id}"
    return schedule


@router.get("")
def find(
    services: InjectedServices, limit: Limit = 50, cursor: Cursor = None
) -> Page[ScheduleSchema]:
    """List schedules, newest first."""
    return services.schedules.find(limit, cursor)


@router.get("/{schedule_id}")
def get(
    services: InjectedServices,
    schedule_id: Identifier,
    preview: Annotated[
        int, Query(ge=0, le=100, description="How many of its next times to show")
    ] = 0,
) -> ScheduleSchema:
    """One schedule."""
    return services.schedules.get(schedule_id, preview)


@router.get("/{schedule_id}/ticks")
def ticks(
    services: InjectedServices,
    schedule_id: Identifier,
    limit: Limit = 50,
    cursor: Annotated[Moment | None, Query(description="`next_cursor` of a page")] = None,
) -> Page[TickSchema]:
    """The outcome of each of its times, newest first."""
    return services.schedules.ticks(schedule_id, limit, cursor)


@router.patch("/{schedule_id}", openapi_extra=SCHEDULE_BODY)
def update(
    services: InjectedServices,
    schedule_id: OwnSchedule,
    changes: Annotated[Any, Depends(parsed_body)],
) -> ScheduleSchema:
    """Change some fields by a merge patch (RFC 7396): null resets a field to its default."""
    if not isinstance(changes, dict):
        raise InvalidRequest("the body must be a mapping of the fields to change")
    return services.schedules.update(schedule_id, changes)


@router.delete("/{schedule_id}", status_code=status.HTTP_204_NO_CONTENT)
def delete(services: InjectedServices, schedule_id: OwnSchedule) -> None:
    """Delete a schedule; its jobs stay, and continue."""
    services.schedules.delete(schedule_id)


@router.post("/{schedule_id}/pause")
def pause(services: InjectedServices, schedule_id: OwnSchedule) -> ScheduleSchema:
    """Submit no more jobs until it is resumed."""
    return services.schedules.pause(schedule_id)


@router.post("/{schedule_id}/resume")
def resume(services: InjectedServices, schedule_id: OwnSchedule) -> ScheduleSchema:
    """Submit jobs again, from the next time on."""
    return services.schedules.resume(schedule_id)


@router.post(
    "/{schedule_id}/run-now",
    status_code=status.HTTP_201_CREATED,
    responses={409: {"model": Problem, "description": "The last job is unfinished"}},
)
def run_now(services: InjectedServices, response: Response, schedule_id: OwnSchedule) -> JobSchema:
    """Submit a job now, besides those of the schedule's times."""
    job = services.schedules.run_now(schedule_id)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return job
