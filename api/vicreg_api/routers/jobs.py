"""``/v1/jobs``."""

from __future__ import annotations

from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Header, Query, Response, status
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import BaseModel

from vicreg_api.access import InjectedCaller, check_owner
from vicreg_api.body import parsed_body
from vicreg_api.examples import JOB_BODY
from vicreg_api.logs import follow_log, read_log
from vicreg_api.parameters import Cursor, Identifier, Limit
from vicreg_api.problems import Problem
from vicreg_api.services import InjectedServices
from vicreg_api.threads import NEIGHBOURS, in_thread
from vicreg_platform.errors import InvalidRequest
from vicreg_platform.jobs.leaderboard import best_trial, leaderboard
from vicreg_platform.jobs.repository import JobFilter
from vicreg_platform.jobs.schemas import DryRun, EventSchema, JobSchema, TrialSchema, TrialSort
from vicreg_platform.jobs.states import JobState
from vicreg_platform.pages import Page
from vicreg_platform.tracking import Tracking

router = APIRouter(
    prefix="/v1/jobs",
    tags=["jobs"],
    responses={
        404: {"model": Problem, "description": "No such job"},
        422: {"model": Problem, "description": "Every fault of the request"},
        503: {"model": Problem, "description": "The database, Ray or MLflow is unreachable"},
    },
)
MAX_LABELS = 10
"""Labels of a search: each is a join, and a database plans few of them quickly."""
Text = Annotated[str | None, Query(max_length=200, pattern=r"^[^\x00]*$")]


class MetricPointSchema(BaseModel):
    """One point of a curve."""

    step: int
    value: float
    timestamp: int


class Metrics(BaseModel):
    """The curves of a job's run."""

    items: dict[str, list[MetricPointSchema]]


def _curves(tracking: Tracking, run_id: str, keys: list[str] | None) -> Metrics:
    items = {}
    for name in keys or sorted(tracking.read(run_id).metrics):
        points = tracking.history(run_id, name)
        items[name] = [
            MetricPointSchema(step=p.step, value=p.value, timestamp=p.timestamp) for p in points
        ]
    return Metrics(items=items)


class Clone(BaseModel):
    """What a clone changes."""

    overrides: dict[str, Any] = {}


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    response_model=JobSchema | DryRun,
    openapi_extra=JOB_BODY,
    responses={
        200: {"model": DryRun, "description": "With `dry_run=true`: nothing is stored"},
        409: {"model": Problem, "description": "The idempotency key belongs to another body"},
        413: {"model": Problem, "description": "The body is over 1 MiB"},
    },
)
def submit(
    services: InjectedServices,
    response: Response,
    caller: InjectedCaller,
    spec: Annotated[Any, Depends(parsed_body)],
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
    dry_run: bool = False,
) -> JobSchema | DryRun:
    """Submit a job. The spec is JSON, or YAML with `Content-Type: application/yaml`."""
    if dry_run:
        response.status_code = status.HTTP_200_OK
        return services.jobs.check(spec)
    job, replayed = services.jobs.submit(spec, idempotency_key, caller.name)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return job


@router.get("")
def find(
    services: InjectedServices,
    state: Annotated[list[JobState] | None, Query(description="One or more")] = None,
    kind: Text = None,
    experiment: Text = None,
    schedule: Annotated[Text, Query(description="The id of the schedule that submitted it")] = None,
    label: Annotated[
        list[str] | None, Query(description="`key=value`, one or more; all must match")
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[JobSchema]:
    """List jobs, newest first."""
    if label is not None and len(label) > MAX_LABELS:
        raise InvalidRequest(f"label: at most {MAX_LABELS} may be given")
    labels = {}
    for pair in label or []:
        key, separator, value = pair.partition("=")
        if not separator or "\x00" in pair:
            raise InvalidRequest(f"label: '{pair}' must be key=value")
        labels[key] = value
    wanted = JobFilter(
        states=state or (), kind=kind, experiment=experiment, schedule=schedule, labels=labels
    )
    return services.jobs.find(wanted, limit, cursor)


@router.get("/{job_id}")
def get(services: InjectedServices, job_id: Identifier) -> JobSchema:
    """One job."""
    return services.jobs.get(job_id)


@router.get("/{job_id}/events")
def events(
    services: InjectedServices, job_id: Identifier, limit: Limit = 100, cursor: Cursor = None
) -> Page[EventSchema]:
    """Every change of the job's state, oldest first."""
    return services.jobs.events(job_id, limit, cursor)


@router.get("/{job_id}/logs", response_class=PlainTextResponse)
async def logs(
    services: InjectedServices,
    job_id: Identifier,
    follow: Annotated[bool, Query(description="Stream until the job has finished")] = False,
    attempt: Annotated[int | None, Query(ge=1, description="Default: the last one")] = None,
) -> Response:
    """The log of a job."""
    job = await run_sync(services.jobs.get, job_id)
    if follow:
        return StreamingResponse(follow_log(services, job_id), media_type="text/plain")
    return StreamingResponse(await read_log(services, job, attempt), media_type="text/plain")


@router.get("/{job_id}/metrics")
async def metrics(
    services: InjectedServices,
    job_id: Identifier,
    key: Annotated[list[str] | None, Query(description="Default: every metric")] = None,
) -> Metrics:
    """The curves of the job's run, from MLflow."""
    job = await run_sync(services.jobs.get, job_id)
    if job.mlflow is None:
        return Metrics(items={})
    run_id = job.mlflow.run_id
    return await in_thread(NEIGHBOURS, lambda: _curves(services.tracking, run_id, key))


@router.get("/{job_id}/trials")
async def trials(
    services: InjectedServices,
    job_id: Identifier,
    sort: Annotated[TrialSort, Query(description="Best, first started, or most epochs first")] = (
        TrialSort.RANK
    ),
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[TrialSchema]:
    """A sweep's trials, from MLflow."""
    job = await run_sync(services.jobs.get, job_id)
    tracking, url = services.tracking, services.jobs.mlflow_public_url
    return await in_thread(NEIGHBOURS, lambda: leaderboard(tracking, url, job, sort, limit, cursor))


@router.post(
    "/{job_id}/promote",
    status_code=status.HTTP_201_CREATED,
    responses={
        409: {"model": Problem, "description": "The sweep is unfinished, or no trial has a value"}
    },
)
async def promote(
    services: InjectedServices, response: Response, caller: InjectedCaller, job_id: Identifier
) -> JobSchema:
    """The job that trains the best configuration of a finished sweep; the same job every time."""
    job = await run_sync(services.jobs.get, job_id)
    if job.kind != "sweep":
        raise InvalidRequest(f"job {job_id} is not a sweep: there is nothing to promote")
    check_owner(caller, job.owner, f"sweep {job_id}")
    best = await in_thread(NEIGHBOURS, lambda: best_trial(services.tracking, job))
    promoted = await run_sync(services.jobs.promote, job_id, best)
    response.headers["Location"] = f"/v1/jobs/{promoted.id}"
    return promoted


@router.post(
    "/{job_id}/cancel", responses={409: {"model": Problem, "description": "The job has ended"}}
)
def cancel(services: InjectedServices, caller: InjectedCaller, job_id: Identifier) -> JobSchema:
    """Cancel a job. One on the cluster is `stopping` until it has stopped."""
    check_owner(caller, services.jobs.get(job_id).owner, f"job {job_id}")
    return services.jobs.cancel(job_id)


@router.post(
    "/{job_id}/retry",
    status_code=status.HTTP_201_CREATED,
    responses={409: {"model": Problem, "description": "The job is neither failed nor cancelled"}},
)
def retry(
    services: InjectedServices, response: Response, caller: InjectedCaller, job_id: Identifier
) -> JobSchema:
    """A new job that resumes from the last checkpoint of a failed or cancelled one."""
    job = services.jobs.retry(job_id, caller.name)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return job


@router.post("/{job_id}/clone", status_code=status.HTTP_201_CREATED)
def clone(
    services: InjectedServices,
    response: Response,
    caller: InjectedCaller,
    job_id: Identifier,
    changes: Clone | None = None,
) -> JobSchema:
    """A new job with the same spec, some fields changed."""
    job = services.jobs.clone(job_id, changes.overrides if changes else {}, caller.name)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return job
