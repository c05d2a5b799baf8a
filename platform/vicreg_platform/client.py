"""The Python client of the HTTP API."""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from vicreg_platform.cluster.schemas import ClusterSchema
from vicreg_platform.errors import InvalidRequest, PlatformError
from vicreg_platform.jobs.queue_schemas import QueueSchema
from vicreg_platform.jobs.schemas import (
    CheckpointsSchema,
    Counts,
    DryRun,
    EventSchema,
    Extended,
    JobSchema,
    Registered,
    TrialDetail,
    TrialSchema,
)
from vicreg_platform.keys.schemas import KeySchema, NewKey
from vicreg_platform.pages import Page
from vicreg_platform.schedules.schemas import ScheduleSchema, TickSchema

POLL_SECONDS = 0.5
_IDENTIFIER = re.compile("[A-Za-z0-9_-]{1,64}")


class ApiError(PlatformError):
    """The API refused a request. ``problem`` is its RFC 9457 answer."""

    def __init__(self, problem: dict[str, Any]) -> None:
        self.problem = problem
        super().__init__(problem.get("detail", "the API gave no reason"))


class ApiUnreachable(PlatformError):
    """The API is unreachable."""


class Client:
    """A connection to the platform.

    Args:
        url: address of the API.
        key: the API key, if the API requires one. Default: that of ``VICREG_API_KEY``; for an API
            of this machine, also the one that ``vicreg up`` keeps in its home (``VICREG_HOME``, or
            ``.vicreg`` here).
        wait_seconds: how long to retry a request that gets no answer (an API that was restarted
            is soon back). A request that must not be repeated is retried only if it cannot have
            reached the API.

    Example:
        >>> with Client("http://127.0.0.1:8000") as client:  # doctest: +SKIP
        ...     job = client.submit({"kind": "pretrain", "data": {"source": "digits"}})
        ...     print(client.wait(job.id).summary)
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        wait_seconds: float = 0.0,
        key: str | None = None,
    ) -> None:
        self.url = url
        self._wait_seconds = wait_seconds
        key = key or _own_key(url)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, timeout=30.0, headers=headers)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def submit(self, spec: dict[str, Any], idempotency_key: str | None = None) -> JobSchema:
        """Submit a job.

        Args:
            spec: the spec.
            idempotency_key: a call that repeats an earlier one's key gets the earlier answer;
                default: a new key.

        Raises:
            ApiError: the spec is not valid; ``problem["errors"]`` names every fault.
        """
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        answer = self._call("POST", "/v1/jobs", content=_json(spec), headers=headers)
        return JobSchema.model_validate(answer)

    def check(self, spec: dict[str, Any]) -> DryRun:
        """What ``submit`` would store, and warnings."""
        return DryRun.model_validate(
            self._call("POST", "/v1/jobs", content=_json(spec), params={"dry_run": True})
        )

    def get(self, job_id: str) -> JobSchema:
        """One job."""
        return JobSchema.model_validate(self._call("GET", f"/v1/jobs/{_segment(job_id)}"))

    def find(self, **filters: Any) -> Page[JobSchema]:
        """A page of jobs, newest first; filters as in the API: state, kind, experiment, label."""
        return Page[JobSchema].model_validate(self._call("GET", "/v1/jobs", params=filters))

    def counts(self, **filters: Any) -> Counts:
        """How many jobs there are, by state; filters as of ``find``, and ``by`` another field."""
        return Counts.model_validate(self._call("GET", "/v1/jobs/counts", params=filters))

    def find_all(self, **filters: Any) -> Iterator[JobSchema]:
        """All jobs, newest first, page by page."""
        cursor: str | None = None
        while True:
            page = self.find(**filters, **({"cursor": cursor} if cursor else {}))
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def events(self, job_id: str) -> Iterator[EventSchema]:
        """The events of a job, oldest first, page by page."""
        params: dict[str, Any] = {"limit": 200}
        while True:
            answer = self._call("GET", f"/v1/jobs/{_segment(job_id)}/events", params=params)
            page = Page[EventSchema].model_validate(answer)
            yield from page.items
            if page.next_cursor is None:
                return
            params["cursor"] = page.next_cursor

    def metrics(self, job_id: str, *keys: str) -> dict[str, list[dict[str, float]]]:
        """The curves of a job's run: points with ``step``, ``value`` and ``timestamp``.

        Args:
            job_id: the job.
            keys: the metrics; default: all of them.
        """
        answer = self._call("GET", f"/v1/jobs/{_segment(job_id)}/metrics", params={"key": keys})
        items: dict[str, list[dict[str, float]]] = answer["items"]
        return items

    def logs(self, job_id: str, attempt: int | None = None) -> str:
        """What an attempt of the job has printed, by default the last one."""
        params = {} if attempt is None else {"attempt": attempt}
        return self._request("GET", f"/v1/jobs/{_segment(job_id)}/logs", params=params).text

    def follow_logs(self, job_id: str) -> Iterator[str]:
        """What the job prints, until it has finished."""
        with self._http.stream(
            "GET", f"/v1/jobs/{_segment(job_id)}/logs", params={"follow": True}, timeout=None
        ) as answer:
            if not answer.is_success:
                answer.read()
                raise ApiError(_problem(answer))
            yield from answer.iter_text()

    def trials(self, job_id: str, **options: Any) -> Page[TrialSchema]:
        """A page of a sweep's trials, best first; options as in the API: sort, limit, cursor."""
        return Page[TrialSchema].model_validate(
            self._call("GET", f"/v1/jobs/{_segment(job_id)}/trials", params=options)
        )

    def trial(self, job_id: str, number: int) -> TrialDetail:
        """A trial of a sweep, with its training for each of its seeds."""
        answer = self._call("GET", f"/v1/jobs/{_segment(job_id)}/trials/{number}")
        return TrialDetail.model_validate(answer)

    def checkpoints(self, job_id: str) -> CheckpointsSchema:
        """The checkpoints of a pretraining, newest first."""
        answer = self._call("GET", f"/v1/jobs/{_segment(job_id)}/checkpoints")
        return CheckpointsSchema.model_validate(answer)

    def promote(self, job_id: str) -> JobSchema:
        """The job that trains the best configuration of an ended sweep."""
        return JobSchema.model_validate(self._call("POST", f"/v1/jobs/{_segment(job_id)}/promote"))

    def register(
        self,
        job_id: str,
        model: str,
        alias: str | None = None,
        require: dict[str, dict[str, float]] | None = None,
    ) -> Registered:
        """Register a succeeded pretraining's encoder in MLflow; the same version every time.

        Args:
            job_id: the pretraining.
            model: the registered model; it is created if it does not exist.
            alias: moved to the version.
            require: what metrics must be, such as ``{"knn/top1": {">=": 0.6}}``.

        Raises:
            ApiError: among others, a score is not enough; ``problem["errors"]`` names each.
        """
        body = {"model": model, "alias": alias, "require": require or {}}
        answer = self._call("POST", f"/v1/jobs/{_segment(job_id)}/register", json=body)
        return Registered.model_validate(answer)

    def cancel(self, job_id: str) -> JobSchema:
        """Cancel a job."""
        return JobSchema.model_validate(self._call("POST", f"/v1/jobs/{_segment(job_id)}/cancel"))

    def pause(self, job_id: str) -> JobSchema:
        """Free what a job occupies until it is resumed; it saves the step that it is at."""
        answer = self._call("POST", f"/v1/jobs/{_segment(job_id)}/pause")
        return JobSchema.model_validate(answer)

    def resume(self, job_id: str, workers: int | None = None) -> JobSchema:
        """Resume a paused job from the step at which it was paused.

        Args:
            job_id: the job.
            workers: of a pretraining: with how many; default: as before.
        """
        body = {} if workers is None else {"workers": workers}
        answer = self._call("POST", f"/v1/jobs/{_segment(job_id)}/resume", json=body)
        return JobSchema.model_validate(answer)

    def change(self, job_id: str, changes: dict[str, Any], version: int | None = None) -> JobSchema:
        """Change a job by a merge patch: priority, labels, ``preemptible``, times.

        Args:
            job_id: the job.
            changes: nested, as in the spec.
            version: of the job that the changes are for; of another, they are refused.
        """
        headers = {} if version is None else {"If-Match": f'"{version}"'}
        answer = self._call("PATCH", f"/v1/jobs/{_segment(job_id)}", json=changes, headers=headers)
        return JobSchema.model_validate(answer)

    def extend(self, job_id: str, epochs: int, schedule: str) -> Extended:
        """Train a succeeded pretraining on.

        Args:
            job_id: the pretraining.
            epochs: of the whole training.
            schedule: of the learning rate: ``anneal`` or ``rewarm``.
        """
        body = {"epochs": epochs, "schedule": schedule}
        answer = self._call("POST", f"/v1/jobs/{_segment(job_id)}/extend", json=body)
        return Extended.model_validate(answer)

    def add_trials(self, job_id: str, trials: int) -> Extended:
        """Give a succeeded sweep more trials, in a new job.

        Args:
            job_id: the sweep.
            trials: of both.
        """
        body = {"trials": trials}
        answer = self._call("POST", f"/v1/jobs/{_segment(job_id)}/extend", json=body)
        return Extended.model_validate(answer)

    def queue(self, limit: int = 100) -> QueueSchema:
        """The jobs that wait for room, in the scheduler's order, and those that occupy it."""
        return QueueSchema.model_validate(self._call("GET", "/v1/queue", params={"limit": limit}))

    def retry(self, job_id: str) -> JobSchema:
        """A new job that resumes from the last checkpoint of a failed or cancelled one."""
        return JobSchema.model_validate(self._call("POST", f"/v1/jobs/{_segment(job_id)}/retry"))

    def clone(self, job_id: str, overrides: dict[str, Any]) -> JobSchema:
        """A new job with the spec of another, some fields changed."""
        return JobSchema.model_validate(
            self._call("POST", f"/v1/jobs/{_segment(job_id)}/clone", json={"overrides": overrides})
        )

    def cluster(self) -> ClusterSchema:
        """The resources of the Ray cluster."""
        return ClusterSchema.model_validate(self._call("GET", "/v1/cluster"))

    def readiness(self) -> dict[str, str]:
        """What ``/readyz`` says of each part: ``ok``, or what is wrong."""
        answer = self._send("GET", "/readyz")
        checks: dict[str, str] = answer.json()["checks"]
        return checks

    # Schedules

    def create_schedule(self, spec: dict[str, Any]) -> ScheduleSchema:
        """Create a schedule.

        Raises:
            ApiError: it is not valid; ``problem["errors"]`` names every fault.
        """
        answer = self._call("POST", "/v1/schedules", content=_json(spec))
        return ScheduleSchema.model_validate(answer)

    def schedule(self, schedule_id: str, preview: int = 0) -> ScheduleSchema:
        """One schedule, with its next ``preview`` times."""
        answer = self._call(
            "GET", f"/v1/schedules/{_segment(schedule_id)}", params={"preview": preview}
        )
        return ScheduleSchema.model_validate(answer)

    def schedules(self, **page: Any) -> Page[ScheduleSchema]:
        """A page of schedules, newest first: ``limit``, ``cursor``."""
        return Page[ScheduleSchema].model_validate(self._call("GET", "/v1/schedules", params=page))

    def ticks(self, schedule_id: str, **page: Any) -> Page[TickSchema]:
        """A page of a schedule's ticks, newest first."""
        answer = self._call("GET", f"/v1/schedules/{_segment(schedule_id)}/ticks", params=page)
        return Page[TickSchema].model_validate(answer)

    def update_schedule(self, schedule_id: str, changes: dict[str, Any]) -> ScheduleSchema:
        """Change a schedule by a merge patch: None resets a field to its default."""
        answer = self._call(
            "PATCH", f"/v1/schedules/{_segment(schedule_id)}", content=_json(changes)
        )
        return ScheduleSchema.model_validate(answer)

    def delete_schedule(self, schedule_id: str) -> None:
        """Delete a schedule; its jobs stay."""
        self._request("DELETE", f"/v1/schedules/{_segment(schedule_id)}")

    def pause_schedule(self, schedule_id: str) -> ScheduleSchema:
        """Submit no more jobs until the schedule is resumed."""
        return ScheduleSchema.model_validate(
            self._call("POST", f"/v1/schedules/{_segment(schedule_id)}/pause")
        )

    def resume_schedule(self, schedule_id: str) -> ScheduleSchema:
        """Submit jobs again, from the next time on."""
        return ScheduleSchema.model_validate(
            self._call("POST", f"/v1/schedules/{_segment(schedule_id)}/resume")
        )

    def run_schedule(self, schedule_id: str) -> JobSchema:
        """Submit a job now, besides those of the schedule's times."""
        return JobSchema.model_validate(
            self._call("POST", f"/v1/schedules/{_segment(schedule_id)}/run-now")
        )

    # Keys

    def create_key(self, name: str, role: str, **limits: Any) -> NewKey:
        """Create a key, shown only now; limits: ``expires_in``, ``max_jobs``, ``max_gpus``."""
        body = {"name": name, "role": role} | limits
        return NewKey.model_validate(self._call("POST", "/v1/keys", json=body))

    def keys(self) -> list[KeySchema]:
        """All keys, newest first."""
        return Page[KeySchema].model_validate(self._call("GET", "/v1/keys")).items

    def revoke_key(self, prefix: str) -> KeySchema:
        """Revoke a key."""
        return KeySchema.model_validate(
            self._call("DELETE", f"/v1/keys/{_segment(_public_part(prefix))}")
        )

    # Waiting

    def wait(
        self,
        job_id: str,
        timeout: float | None = None,
        watch: Callable[[JobSchema], None] = lambda job: None,
    ) -> JobSchema:
        """Wait until a job has finished.

        Args:
            job_id: the job.
            timeout: in seconds; None waits forever.
            watch: called with the job at every poll.

        Raises:
            TimeoutError: it had not finished in that time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            job = self.get(job_id)
            watch(job)
            if job.ended:
                return job
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"job {job_id} is still {job.state.value} after {timeout} s")
            time.sleep(POLL_SECONDS)

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        return self._request(method, path, **arguments).json()

    def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        answer = self._send(method, path, **arguments)
        if not answer.is_success:
            raise ApiError(_problem(answer))
        return answer

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        deadline = time.monotonic() + self._wait_seconds
        while True:
            try:
                answer = self._http.request(method, path, **arguments)
                unavailable = answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
                if not unavailable or path == "/readyz" or time.monotonic() >= deadline:
                    return answer
                time.sleep(POLL_SECONDS)
            except httpx.TransportError as error:
                repeatable = (
                    method == "GET"
                    or "Idempotency-Key" in arguments.get("headers", {})
                    or isinstance(error, httpx.ConnectError)
                )
                if not repeatable or time.monotonic() >= deadline:
                    raise ApiUnreachable(
                        f"the API is unreachable at {self.url} ({error}): is `vicreg up` running?"
                    ) from None
                time.sleep(POLL_SECONDS)


def _own_key(url: str) -> str | None:
    """The key of this process's environment, or of the `vicreg up` of this folder."""
    given = os.environ.get("VICREG_API_KEY")
    if given or httpx.URL(url).host not in ("127.0.0.1", "localhost", "::1"):
        return given or None
    try:
        return (Path(os.environ.get("VICREG_HOME") or ".vicreg") / "api-key").read_text().strip()
    except OSError:
        return None


def _segment(name: str) -> str:
    """A name that is one part of a path: ``../keys`` would name another route.

    Raises:
        InvalidRequest: it is not; the message does not repeat it, for it may be a key.
    """
    if not _IDENTIFIER.fullmatch(name):
        raise InvalidRequest("an id consists of letters, digits, _ and -, 64 at most")
    return name


def _public_part(key: str) -> str:
    """The part of a key that names it: the rest must not be sent where it is logged."""
    return key.split("_")[1] if key.startswith("vk_") and key.count("_") > 1 else key


def _json(spec: dict[str, Any]) -> str:
    """The spec as JSON: dates that YAML parsed become text; refusing NaN is left to the API."""
    return json.dumps(spec, default=str)


def _problem(answer: httpx.Response) -> dict[str, Any]:
    try:
        problem: dict[str, Any] = answer.json()
    except ValueError:
        return {"detail": f"status {answer.status_code}: {answer.text[:200]}"}
    return problem
