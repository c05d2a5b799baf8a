"""``/v1/jobs``."""

from __future__ import annotations

import enum
from typing import Annotated, Any
from urllib.parse import quote

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Header, Path, Query, Response, status
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from vicreg_api.access import InjectedCaller, check_owner
from vicreg_api.body import StrictJsonRoute, parsed_body
from vicreg_api.examples import JOB_BODY
from vicreg_api.logs import follow_log, pieces_of, read_log
from vicreg_api.parameters import Cursor, Identifier, Limit
from vicreg_api.problems import Problem, problem_of
from vicreg_api.services import InjectedServices
from vicreg_api.threads import NEIGHBOURS, in_thread
from vicreg_platform.contract.importance import Importance
from vicreg_platform.errors import InvalidRequest, NotFound, PlatformError
from vicreg_platform.jobs.checkpoints import checkpoints_of
from vicreg_platform.jobs.leaderboard import best_trial, leaderboard
from vicreg_platform.jobs.registration import Registration, register
from vicreg_platform.jobs.repository import JobFilter
from vicreg_platform.jobs.schemas import (
    CheckpointsSchema,
    Counts,
    DryRun,
    EventSchema,
    Extended,
    ExtensionSchedule,
    JobField,
    JobSchema,
    JobSort,
    Order,
    Registered,
    TrialDetail,
    TrialSchema,
    TrialSort,
)
from vicreg_platform.jobs.states import JobState
from vicreg_platform.jobs.trials import run_of_seed, trial_of
from vicreg_platform.pages import Page
from vicreg_platform.schema import Schema
from vicreg_platform.specs.base import Moment
from vicreg_platform.tracking import MetricPoint, Tracking, thinned

router = APIRouter(
    prefix="/v1/jobs",
    tags=["jobs"],
    route_class=StrictJsonRoute,
    responses={
        404: {"model": Problem, "description": "No such job"},
        422: {"model": Problem, "description": "Every fault of the request"},
        503: {"model": Problem, "description": "The database, Ray or MLflow is unreachable"},
    },
)
MAX_LABELS = 10
"""Labels of a search: each is a join, and a database plans few of them quickly."""
MAX_AT_ONCE = 200
"""Jobs that one request changes."""
Text = Annotated[str | None, Query(max_length=200, pattern=r"^[^\x00]*$")]
Value = Annotated[str, Field(max_length=1000)]


class MetricPointSchema(Schema):
    """One point of a curve."""

    step: int
    value: float
    timestamp: int
    """Milliseconds since 1970."""

    @classmethod
    def of(cls, point: MetricPoint) -> MetricPointSchema:
        """The answer for a point."""
        return cls(step=point.step, value=point.value, timestamp=point.timestamp)


MetricKey = Annotated[str, Query(max_length=250, pattern=r"^[^\x00]+$")]
MetricKeys = Annotated[
    list[MetricKey], Query(min_length=1, max_length=20, description="Metrics, 1 to 20")
]
TrialNumber = Annotated[int, Path(ge=0, le=2**31 - 1)]
ArtifactPath = Annotated[str, Path(max_length=1000, pattern=r"^[^\x00]+$")]


class Metrics(BaseModel):
    """The curves of a job's run."""

    items: dict[str, list[MetricPointSchema]]


def _curves(tracking: Tracking, run_id: str, keys: list[str] | None) -> Metrics:
    items = {}
    for name in dict.fromkeys(keys or sorted(tracking.read(run_id).metrics)):
        points = tracking.history(run_id, name)
        items[name] = [MetricPointSchema.of(point) for point in points]
    return Metrics(items=items)


def _thinned_curves(tracking: Tracking, run_id: str, keys: list[str], most: int) -> Metrics:
    items = {}
    for name in keys:
        points = thinned(tracking.history(run_id, name), most)
        items[name] = [MetricPointSchema.of(point) for point in points]
    return Metrics(items=items)


class ArtifactSchema(Schema):
    """A file that is stored with the job's run."""

    path: str
    size: int | None
    """In bytes."""


class JobPatch(BaseModel):
    """What to change of a job: a merge patch of its spec.

    Other fields are refused one by one: see the errors of the answer.
    """

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    priority: int | None = None
    """Higher runs first."""
    labels: dict[Value, Value | None] | None = None
    """Values by key; null removes a label."""
    preemptible: bool | None = None
    max_runtime: float | str | None = None
    """Seconds, or as in `PT12H`."""
    deadline: str | None = None
    search: dict[str, Any] | None = None
    """Of a sweep: `{"trials": …}`, more than before."""
    concurrency: int | None = None
    """Of a sweep: trials at once."""


class Resume(BaseModel):
    """How to resume a job."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    workers: int | None = Field(default=None, ge=1, le=1024)
    """Of a pretraining: with how many. Default: as before."""


class ExtendRequest(BaseModel):
    """How to extend a pretraining or a sweep."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    epochs: int | None = Field(default=None, ge=1, le=100_000)
    """Of a pretraining: of the whole training, those that are trained already included."""
    schedule: ExtensionSchedule | None = None
    """Of a pretraining, with `epochs`."""
    trials: int | None = Field(default=None, ge=1, le=10_000)
    """Of a sweep: all of them, those that are tried already included."""


class Action(enum.StrEnum):
    """What to do with several jobs."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    PRIORITY = "priority"
    RETRY = "retry"
    LABEL = "label"


class BulkRequest(BaseModel):
    """One thing to do with several jobs."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    action: Action
    jobs: list[Annotated[str, Field(max_length=64)]] = Field(min_length=1, max_length=MAX_AT_ONCE)
    labels: dict[Value, Value | None] = {}
    """For `label`: values by key; null removes a label."""
    priority: int | None = None
    """For `priority`: the new one."""


class Done(Schema):
    """What came of one of the jobs."""

    id: str
    job: JobSchema | None = None
    """The job; for `retry`, the new one."""
    problem: Problem | None = None
    """Why nothing was done."""


class BulkAnswer(Schema):
    """What came of each of the jobs, in the order of the request."""

    items: list[Done]


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
        return services.queue.foreseen(services.jobs.check(spec), caller.name)
    job, replayed = services.jobs.submit(spec, idempotency_key, caller.name)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return services.queue.placed(job)


def _wanted(
    state: Annotated[list[JobState] | None, Query(description="One or more")] = None,
    kind: Text = None,
    experiment: Text = None,
    owner: Text = None,
    schedule: Annotated[Text, Query(description="The id of the schedule that submitted it")] = None,
    parent: Annotated[Text, Query(description="The id of the job that they follow from")] = None,
    top_level: Annotated[bool, Query(description="Only jobs that follow from no other")] = False,
    text: Annotated[Text, Query(description="Part of the name, experiment or id")] = None,
    created_from: Annotated[Moment | None, Query(description="Submitted then or later")] = None,
    created_before: Annotated[Moment | None, Query(description="Submitted earlier")] = None,
    label: Annotated[
        list[str] | None, Query(description="`key=value`, one or more; all must match")
    ] = None,
) -> JobFilter:
    """Which jobs are meant; every condition given must hold."""
    if label is not None and len(label) > MAX_LABELS:
        raise InvalidRequest(f"label: at most {MAX_LABELS} may be given")
    labels = {}
    for pair in label or []:
        key, separator, value = pair.partition("=")
        if not separator or "\x00" in pair:
            raise InvalidRequest(f"label: '{pair}' must be key=value")
        labels[key] = value
    return JobFilter(
        states=state or (),
        kind=kind,
        experiment=experiment,
        owner=owner,
        schedule=schedule,
        parent=parent,
        top_level=top_level,
        text=text,
        created_from=created_from,
        created_before=created_before,
        labels=labels,
    )


Wanted = Annotated[JobFilter, Depends(_wanted)]


@router.get("")
def find(
    services: InjectedServices,
    wanted: Wanted,
    sort: JobSort = JobSort.CREATED,
    order: Order = Order.DESC,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[JobSchema]:
    """List jobs, newest first."""
    return services.jobs.find(wanted, limit, cursor, sort, order)


@router.get("/counts")
def counts(
    services: InjectedServices,
    wanted: Wanted,
    by: Annotated[JobField, Query(description="The field by whose values to count")] = (
        JobField.STATE
    ),
) -> Counts:
    """How many jobs there are."""
    return services.jobs.counts(wanted, by)


@router.post("/bulk")
def bulk(services: InjectedServices, caller: InjectedCaller, request: BulkRequest) -> BulkAnswer:
    """Do one thing with several jobs. What cannot be done with one does not stop the others."""
    if request.action is Action.PRIORITY and request.priority is None:
        raise InvalidRequest("priority: the action `priority` needs the new one")

    def act(job_id: str) -> JobSchema:
        if request.action is Action.RETRY:
            return services.jobs.retry(job_id, caller.name)
        check_owner(caller, services.jobs.get(job_id).owner, f"job {job_id}")
        match request.action:
            case Action.CANCEL:
                return services.jobs.cancel(job_id)
            case Action.PAUSE:
                return services.control.pause(job_id)
            case Action.RESUME:
                return services.control.resume(job_id)
            case Action.PRIORITY:
                patch = {"priority": request.priority}
                return services.control.change(job_id, patch, caller=caller.name)
            case _:
                return services.control.change(job_id, {"labels": request.labels})

    def done(job_id: str) -> Done:
        try:
            return Done(id=job_id, job=act(job_id))
        except PlatformError as error:
            return Done(id=job_id, problem=problem_of(error))

    return BulkAnswer(items=[done(job_id) for job_id in dict.fromkeys(request.jobs)])


@router.get("/{job_id}")
def get(services: InjectedServices, response: Response, job_id: Identifier) -> JobSchema:
    """One job. Its `ETag` is its version, for `If-Match`."""
    job = services.queue.placed(services.jobs.get(job_id))
    response.headers["ETag"] = f'"{job.version}"'
    return job


@router.patch(
    "/{job_id}",
    responses={
        403: {"model": Problem, "description": "The priority is above the limit of the key"},
        409: {"model": Problem, "description": "The job has ended"},
        412: {"model": Problem, "description": "The job has another version than `If-Match`"},
    },
)
def change(
    services: InjectedServices,
    response: Response,
    caller: InjectedCaller,
    job_id: Identifier,
    patch: JobPatch,
    if_match: Annotated[str | None, Header(max_length=100)] = None,
) -> JobSchema:
    """Change a job's priority, labels, `preemptible`, `max_runtime` or `deadline`.

    Of a sweep, also `search.trials` (more) and `concurrency`: one that runs is restarted for it,
    and its trials continue at their step. The tags of its MLflow run get changed labels soon after.
    """
    check_owner(caller, services.jobs.get(job_id).owner, f"job {job_id}")
    changes = patch.model_dump(exclude_unset=True)
    job = services.control.change(job_id, changes, _version(if_match), caller.name)
    response.headers["ETag"] = f'"{job.version}"'
    return job


def _version(if_match: str | None) -> int | None:
    if if_match is None or if_match.strip() == "*":
        return None
    tag = if_match.strip().removeprefix("W/").strip('"')
    if not tag.isdecimal():
        raise InvalidRequest('If-Match: must be the ETag of the job, such as "3"')
    return int(tag)


@router.get("/{job_id}/request")
def request(services: InjectedServices, job_id: Identifier) -> dict[str, Any]:
    """The spec as its user wrote it."""
    return services.jobs.request(job_id)


@router.get("/{job_id}/artifacts")
async def artifacts(services: InjectedServices, job_id: Identifier) -> Page[ArtifactSchema]:
    """The files that are stored with the job's run in MLflow, but its logs: 1,000 at most."""
    job = await run_sync(services.jobs.get, job_id)
    if job.mlflow is None:
        return Page(items=[])
    run_id = job.mlflow.run_id
    found = await in_thread(NEIGHBOURS, lambda: services.tracking.artifacts(run_id))
    return Page(items=[ArtifactSchema(path=each.path, size=each.size) for each in found])


@router.get("/{job_id}/checkpoints")
async def checkpoints(services: InjectedServices, job_id: Identifier) -> CheckpointsSchema:
    """The checkpoints of a pretraining: those in the storage, and the one among its files.

    What is in the storage is what the workers have said when they last saved, or started; where
    the API sees the storage, `present` says whether it is still there.
    """
    job = await run_sync(services.jobs.get, job_id)
    tracking, storage = services.tracking, services.storage
    return await in_thread(NEIGHBOURS, lambda: checkpoints_of(tracking, storage, job))


@router.get(
    "/{job_id}/artifacts/{path:path}",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/octet-stream": {}}}},
)
async def artifact(
    services: InjectedServices, job_id: Identifier, path: ArtifactPath
) -> StreamingResponse:
    """One of those files. Only pictures are shown by a browser: others it saves."""
    job = await run_sync(services.jobs.get, job_id)
    if job.mlflow is None:
        raise NotFound(f"job {job_id} has no run in MLflow yet")
    run_id = job.mlflow.run_id
    pieces, size = await in_thread(NEIGHBOURS, lambda: services.tracking.artifact(run_id, path))
    picture = path.endswith(".png")
    name = quote(path.rsplit("/", 1)[-1], safe="")
    headers = {
        "Content-Disposition": "inline" if picture else f"attachment; filename*=UTF-8''{name}"
    }
    if size is not None:
        headers["Content-Length"] = str(size)
    return StreamingResponse(
        pieces_of(pieces),
        media_type="image/png" if picture else "application/octet-stream",
        headers=headers,
    )


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
    attempt: Annotated[
        int | None,
        Query(ge=1, description="Default: the last one; with `follow`, all, or from this one on"),
    ] = None,
) -> Response:
    """The log of a job."""
    job = await run_sync(services.jobs.get, job_id)
    if follow:
        followed = follow_log(services, job_id, attempt or 1)
        return StreamingResponse(followed, media_type="text/plain")
    return StreamingResponse(await read_log(services, job, attempt), media_type="text/plain")


@router.get("/{job_id}/metrics")
async def metrics(
    services: InjectedServices,
    job_id: Identifier,
    key: Annotated[
        list[MetricKey] | None, Query(max_length=20, description="Metrics; default: every one")
    ] = None,
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


@router.get("/{job_id}/trials/{number}")
async def trial(services: InjectedServices, job_id: Identifier, number: TrialNumber) -> TrialDetail:
    """A trial of a sweep: its parameters, its state, and its training with each of its seeds."""
    job = await run_sync(services.jobs.get, job_id)
    tracking, url = services.tracking, services.jobs.mlflow_public_url
    return await in_thread(NEIGHBOURS, lambda: trial_of(tracking, url, job, number))


@router.get("/{job_id}/trials/{number}/metrics")
async def trial_metrics(
    services: InjectedServices,
    job_id: Identifier,
    number: TrialNumber,
    key: MetricKeys,
    seed: Annotated[int | None, Query(ge=0, description="Default: the first")] = None,
    points: Annotated[int, Query(ge=2, le=5000, description="Points of a curve, at most")] = 500,
) -> Metrics:
    """The curves of a trial with one of its seeds, evenly thinned, each with its last point."""
    job = await run_sync(services.jobs.get, job_id)

    def read() -> Metrics:
        run_id = run_of_seed(services.tracking, job, number, seed)
        return _thinned_curves(services.tracking, run_id, key, points)

    return await in_thread(NEIGHBOURS, read)


@router.get("/{job_id}/importance")
async def parameter_importance(services: InjectedServices, job_id: Identifier) -> Importance | None:
    """How much each parameter of a sweep matters; null before its first trial has ended."""
    job = await run_sync(services.jobs.get, job_id)
    if job.kind != "sweep":
        raise InvalidRequest(f"job {job_id} is not a sweep: it has no parameters to compare")
    if job.mlflow is None:
        return None
    run_id = job.mlflow.run_id
    return await in_thread(NEIGHBOURS, lambda: services.tracking.importance(run_id))


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
    "/{job_id}/register",
    status_code=status.HTTP_201_CREATED,
    responses={
        409: {"model": Problem, "description": "It has not succeeded, or a score is not enough"}
    },
)
async def register_encoder(
    services: InjectedServices, caller: InjectedCaller, job_id: Identifier, wanted: Registration
) -> Registered:
    """Register a succeeded pretraining's encoder in MLflow; the same version every time.

    `require` is compared with the metrics of the job and of the evaluations that measure its
    encoder. The version has the scores as tags, `score.<metric>`.
    """
    job = await run_sync(services.jobs.get, job_id)
    check_owner(caller, job.owner, f"job {job_id}")
    evaluations = await run_sync(services.jobs.evaluations, job_id)
    tracking, url = services.tracking, services.jobs.mlflow_public_url
    return await in_thread(NEIGHBOURS, lambda: register(tracking, url, job, evaluations, wanted))


@router.post(
    "/{job_id}/cancel", responses={409: {"model": Problem, "description": "The job has ended"}}
)
def cancel(services: InjectedServices, caller: InjectedCaller, job_id: Identifier) -> JobSchema:
    """Cancel a job. One on the cluster is `stopping` until it has stopped."""
    check_owner(caller, services.jobs.get(job_id).owner, f"job {job_id}")
    return services.jobs.cancel(job_id)


@router.post(
    "/{job_id}/pause", responses={409: {"model": Problem, "description": "The job has ended"}}
)
def pause(services: InjectedServices, caller: InjectedCaller, job_id: Identifier) -> JobSchema:
    """Free what a job occupies until it is resumed. It saves the step that it is at.

    One on the cluster is `stopping` until it has stopped; a sweep stops with its trials.
    """
    check_owner(caller, services.jobs.get(job_id).owner, f"job {job_id}")
    return services.control.pause(job_id)


@router.post(
    "/{job_id}/resume", responses={409: {"model": Problem, "description": "It is not paused"}}
)
def resume(
    services: InjectedServices,
    caller: InjectedCaller,
    job_id: Identifier,
    how: Resume | None = None,
) -> JobSchema:
    """Resume a paused job from the step at which it was paused."""
    check_owner(caller, services.jobs.get(job_id).owner, f"job {job_id}")
    return services.control.resume(job_id, how.workers if how else None)


@router.post(
    "/{job_id}/extend",
    status_code=status.HTTP_201_CREATED,
    responses={
        409: {
            "model": Problem,
            "description": "It is not a pretraining or sweep that has succeeded",
        }
    },
)
def extend(
    services: InjectedServices,
    response: Response,
    caller: InjectedCaller,
    job_id: Identifier,
    request: ExtendRequest,
) -> Extended:
    """A new job that trains a succeeded pretraining on, or gives a succeeded sweep more trials.

    A pretraining continues from its last checkpoint (`epochs`). A sweep begins with the trials of
    the other one, none of which runs again (`trials`).
    """
    epochs, schedule, trials = request.epochs, request.schedule, request.trials
    if epochs is not None and schedule is not None and trials is None:
        made = services.control.extend(job_id, epochs, schedule, caller.name)
    elif trials is not None and epochs is None and schedule is None:
        made = services.control.add_trials(job_id, trials, caller.name)
    else:
        raise InvalidRequest("give epochs and schedule for a pretraining, or trials for a sweep")
    response.headers["Location"] = f"/v1/jobs/{made.job.id}"
    return made


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
