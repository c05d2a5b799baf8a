"""The use cases of jobs. One use case is one transaction."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from vicreg_platform.clock import Clock, utc_now
from vicreg_platform.cluster.submission import MAX_COMMAND_BYTES, command_bytes
from vicreg_platform.contract.trial import Trial
from vicreg_platform.data_root import holds_image, resolve_inside
from vicreg_platform.database import Database
from vicreg_platform.errors import (
    Forbidden,
    IdempotencyConflict,
    IllegalTransition,
    InvalidSpec,
    NotFound,
    QuotaExceeded,
)
from vicreg_platform.ids import new_id
from vicreg_platform.jobs.repository import JobFilter, JobRepository, Jobs
from vicreg_platform.jobs.schemas import (
    Count,
    Counts,
    DryRun,
    EventSchema,
    JobEvent,
    JobField,
    JobProgress,
    JobSchema,
    JobSort,
    Order,
    TrainingCost,
)
from vicreg_platform.jobs.states import ON_CLUSTER, TERMINAL, UNCOUNTED, JobState, StopCause
from vicreg_platform.jobs.tables import Event, Job
from vicreg_platform.jobs.training_cost import (
    MeasuredRun,
    epochs_of,
    step_cost_key,
    training_cost,
)
from vicreg_platform.keys.repository import KeyRepository
from vicreg_platform.needs import Bundle
from vicreg_platform.pages import Page, number_of, page_of
from vicreg_platform.specs import (
    KINDS,
    AnySpec,
    Data,
    DigitsData,
    FieldFault,
    ImageFolderData,
    JobSpec,
    PretrainSpec,
    SweepSpec,
    WebDatasetData,
    parse_spec,
)
from vicreg_platform.specs.data import expand_braces
from vicreg_platform.specs.overrides import overridden
from vicreg_platform.specs.stored import VERSION, Unreadable, read_spec, require_spec
from vicreg_platform.telemetry import Unfinished


@dataclass(frozen=True)
class Origin:
    """What a job was made for, if not a user's spec; and its owner."""

    retry_of: str | None = None
    extends: str | None = None
    promoted_from: str | None = None
    schedule_id: str | None = None
    owner: str | None = None

    def __str__(self) -> str:
        if self.retry_of is not None:
            return f"retries job {self.retry_of}"
        if self.extends is not None:
            return f"extends job {self.extends}"
        if self.promoted_from is not None:
            return f"trains the best configuration of sweep {self.promoted_from}"
        if self.schedule_id is not None:
            return f"submitted by schedule {self.schedule_id}"
        return "submitted"


ORIGINAL = Origin()
MAX_COUNTS = 100
"""How many values of a field are counted."""
MAX_EVALUATIONS = 1000
"""How many evaluations of a job are considered."""
MAX_MEASURED = 10
"""How many runs are considered to say what a training would take."""
MAX_SPEC_BYTES = MAX_COMMAND_BYTES - 20_000
"""Of a spec in its driver's command line, which also says where everything is."""


class JobService:
    """The use cases of jobs.

    Args:
        database: where they are stored.
        data_root: where data is; paths are checked if this process can see it. With None they are
            not, and no disk that hangs holds it up.
        mlflow_public_url: what the URLs of runs start with.
        now: the clock.
    """

    def __init__(
        self,
        database: Database,
        data_root: Path | None,
        mlflow_public_url: str,
        now: Clock = utc_now,
    ) -> None:
        self._database = database
        self._jobs = Jobs(database, now)
        self._data_root = data_root
        self.mlflow_public_url = mlflow_public_url
        self._now = now

    def check(self, request: Any) -> DryRun:
        """What ``submit`` would store.

        Raises:
            InvalidSpec: with every fault.
        """
        spec, warnings = self.resolve(request)
        cost = self._cost(spec) if isinstance(spec, PretrainSpec) else None
        return DryRun(spec=spec.model_dump(mode="json"), warnings=warnings, cost=cost)

    def _cost(self, spec: PretrainSpec) -> TrainingCost | None:
        key, workers = step_cost_key(spec), spec.needs().count
        for state in (JobState.SUCCEEDED, JobState.RUNNING):
            with self._jobs.read() as jobs:
                found = jobs.of_step_cost(key, workers, state, MAX_MEASURED)
            runs = (run for run in map(MeasuredRun.of, found) if run is not None)
            cost = training_cost(epochs_of(spec), runs)
            if cost is not None:
                return cost
        return None

    def submit(
        self, request: Any, idempotency_key: str | None = None, owner: str | None = None
    ) -> tuple[JobSchema, bool]:
        """Store a job, and the evaluations that its spec asks for.

        Args:
            request: the spec as its user wrote it.
            idempotency_key: a request that repeats an earlier one's key gets the earlier answer.
            owner: the owner of the job.

        Returns:
            The answer, and whether it is an earlier one.

        Raises:
            InvalidSpec: with every fault.
            IdempotencyConflict: the key was used before with another body.
            QuotaExceeded: the owner's quota is used up.
        """
        if idempotency_key is not None and owner is not None:
            # Owners do not share keys.
            idempotency_key = hashlib.sha256(f"{owner}\0{idempotency_key}".encode()).hexdigest()
        return self._submit(request, idempotency_key, owner)

    def _submit(
        self, request: Any, idempotency_key: str | None, owner: str | None
    ) -> tuple[JobSchema, bool]:
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        if idempotency_key is not None:
            with self._jobs.read() as jobs:
                first = jobs.answer_for(idempotency_key)
            if first is not None:
                # Before any check: what was valid then may not be so now.
                return self._first_answer(first.request_digest, first.answer, digest)
        spec, _ = self.resolve(request)
        try:
            with self._database.write() as session:
                jobs = JobRepository(session, self._now())
                answer = self.store(session, spec, request, Origin(owner=owner))
                if idempotency_key is not None and not jobs.store_answer(
                    idempotency_key, digest, answer.model_dump(mode="json")
                ):
                    raise _AnsweredMeanwhile
                return answer, False
        except _AnsweredMeanwhile:
            return self._submit(request, idempotency_key, owner)

    def get(self, job_id: str) -> JobSchema:
        """One job.

        Raises:
            NotFound: there is none of this id.
        """
        with self._jobs.read() as jobs:
            return self.answer(jobs.get(job_id))

    def find(
        self,
        wanted: JobFilter,
        limit: int,
        cursor: str | None,
        sort: JobSort = JobSort.CREATED,
        order: Order = Order.DESC,
    ) -> Page[JobSchema]:
        """A page of jobs in an order, by default newest first."""
        with self._jobs.read() as jobs:
            found = jobs.find(wanted, limit + 1, cursor, sort, order is Order.DESC)
            answers = [self.answer(job) for job in found]
        return page_of(answers, limit, lambda job: job.id)

    def counts(self, wanted: JobFilter, by: JobField) -> Counts:
        """How many jobs there are, in total and by the values of a field."""
        with self._jobs.read() as jobs:
            found = jobs.counts(wanted, by, MAX_COUNTS)
            total = jobs.count(wanted)
        return Counts(total=total, items=[Count(value=v, count=n) for v, n in found])

    def request(self, job_id: str) -> dict[str, Any]:
        """The spec of a job as its user wrote it.

        Raises:
            NotFound: there is none of this id.
        """
        with self._jobs.read() as jobs:
            return jobs.get(job_id).request

    def unfinished(self) -> Unfinished:
        """How many jobs are unfinished.

        Raises:
            DatabaseUnavailable: the database is unreachable.
        """
        with self._jobs.read() as jobs:
            counts, oldest = jobs.live_counts(), jobs.oldest_queued()
        states = [state.value for state in JobState if state not in TERMINAL]
        zeros = {(kind, state): 0 for kind in KINDS for state in states}
        return Unfinished(zeros | counts, oldest)

    def waited_for(self) -> Bundle:
        """What all queued jobs need to start, together: of a sweep, one training."""
        with self._jobs.read() as jobs:
            return jobs.waited_for()

    def events(self, job_id: str, limit: int, cursor: str | None) -> Page[EventSchema]:
        """A page of a job's events, oldest first.

        Raises:
            NotFound: there is no such job.
        """
        with self._jobs.read() as jobs:
            jobs.get(job_id)
            found = jobs.events(job_id, limit + 1, number_of(cursor) or 0)
        return page_of([EventSchema.of(event) for event in found], limit, lambda event: event.id)

    def evaluations(self, job_id: str) -> list[JobSchema]:
        """The evaluations of a pretraining that have succeeded, newest first."""
        wanted = JobFilter(parent=job_id, kind="evaluate", states=[JobState.SUCCEEDED])
        with self._jobs.read() as jobs:
            found = jobs.find(wanted, MAX_EVALUATIONS, None, JobSort.CREATED, True)
            return [self.answer(job) for job in found]

    def runs_of(self, job_ids: Sequence[str]) -> dict[str, str]:
        """The MLflow runs of those of the jobs that have one."""
        with self._jobs.read() as jobs:
            return jobs.runs_of(job_ids)

    def latest_events(self, limit: int, cursor: str | None) -> Page[JobEvent]:
        """A page of the events of all jobs, newest first."""
        with self._jobs.read() as jobs:
            found = jobs.latest_events(limit + 1, number_of(cursor))
        page = page_of(found, limit, lambda row: row[0].id)
        return Page(items=_readable(page.items), next_cursor=page.next_cursor)

    def last_event(self) -> int:
        """The highest id of an event; 0 if there is none."""
        with self._jobs.read() as jobs:
            return jobs.last_event()

    def events_after(self, event: int, limit: int) -> list[JobEvent]:
        """Events of all jobs, oldest first, with ids above ``event``."""
        with self._jobs.read() as jobs:
            return _readable(jobs.events_of_all(limit, event))

    def on_cluster(self) -> list[JobProgress]:
        """How far each job is that a process works on."""
        with self._jobs.read() as jobs:
            return [JobProgress.of(job) for job in jobs.on_cluster()]

    def cancel(self, job_id: str) -> JobSchema:
        """Cancel a job: at once if it is not on the cluster, else by way of ``stopping``.

        Raises:
            NotFound: there is no such job.
            IllegalTransition: it has ended.
        """
        with self._jobs.write() as jobs:
            jobs.lock(job_id)
            state = JobState.read(jobs.get(job_id).state)
            if state in TERMINAL:
                raise IllegalTransition(f"job {job_id} has ended: it is {state.value}")
            self.stop(jobs, job_id, "cancelled by the user")
            return self.answer(jobs.get(job_id))

    def stop(self, jobs: JobRepository, job_id: str, message: str) -> None:
        """Cancel a job, unless it has ended, in the caller's transaction."""
        jobs.lock(job_id)
        job = jobs.get(job_id)
        state = JobState.read(job.state)
        if job.stopping_for is not None and job.stopping_for not in UNCOUNTED:
            return
        if state not in TERMINAL:
            on_cluster = state in ON_CLUSTER
            jobs.transition(
                job_id,
                JobState.STOPPING if on_cluster else JobState.CANCELLED,
                message=message,
                stop_cause=StopCause.CANCELLED if on_cluster else None,
            )

    def retry(self, job_id: str, owner: str | None = None) -> JobSchema:
        """A new job with the spec of an ended one, which resumes from its last checkpoint.

        ``start_after`` and ``deadline`` are not copied.

        Raises:
            NotFound: there is no such job.
            IllegalTransition: it has not failed and was not cancelled.
            InvalidSpec: what the spec refers to no longer exists.
        """
        with self._jobs.read() as jobs:
            ended = jobs.get(job_id)
        if JobState.read(ended.state) not in (JobState.FAILED, JobState.CANCELLED):
            raise IllegalTransition(
                f"job {job_id} is {ended.state}: only a failed or cancelled job is retried"
            )
        timeless = {"start_after": None, "deadline": None}
        stored = require_spec(ended.spec, ended.spec_version)
        spec, _ = self.resolve(stored.model_dump(mode="json") | timeless)
        request = {name: value for name, value in ended.request.items() if name not in timeless}
        with self._database.write() as session:
            return self.store(session, spec, request, Origin(retry_of=job_id, owner=owner))

    def promote(self, sweep_id: str, best: Trial | None) -> JobSchema:
        """The job that trains the best configuration of a sweep, with the base's evaluations.

        Args:
            sweep_id: the sweep.
            best: its best trial.

        Returns:
            The same job at every call.

        Raises:
            NotFound: there is no such job.
            IllegalTransition: the sweep has not ended, or no trial of it has a value.
            InvalidSpec: what the configuration refers to no longer exists.
        """
        with self._database.read() as session:
            jobs = JobRepository(session, self._now())
            sweep, promoted = jobs.get(sweep_id), jobs.promoted_from(sweep_id)
        if promoted is not None:
            return self.answer(promoted)
        if JobState.read(sweep.state) not in TERMINAL:
            raise IllegalTransition(f"sweep {sweep_id} is {sweep.state}: its best may still change")
        if best is None:
            raise IllegalTransition(f"no trial of sweep {sweep_id} has a value of its objective")
        stored = require_spec(sweep.spec, sweep.spec_version)
        assert isinstance(stored, SweepSpec)
        request = overridden(stored.base, best.parameters)
        request |= {"name": f"{sweep.name}-best"[:200], "experiment": sweep.experiment}
        request["labels"] = stored.labels | request.get("labels", {})
        spec, _ = self.resolve(request)
        origin = Origin(promoted_from=sweep_id, schedule_id=sweep.schedule_id, owner=sweep.owner)
        with self._database.write() as session:
            jobs = JobRepository(session, self._now())
            jobs.lock(sweep_id)  # of two concurrent requests, the second finds the first's job
            promoted = jobs.promoted_from(sweep_id)
            if promoted is not None:
                return self.answer(promoted)
            return self.store(session, spec, request, origin)

    def clone(self, job_id: str, overrides: dict[str, Any], owner: str | None = None) -> JobSchema:
        """A new job with the spec of another, some fields changed.

        Args:
            job_id: the job to copy.
            overrides: values by nested or dotted names.
            owner: the owner of the new job.

        Raises:
            NotFound: there is no such job.
            InvalidSpec: the result is not valid.
        """
        with self._jobs.read() as jobs:
            request = jobs.get(job_id).request
        answer, _ = self.submit(overridden(request, overrides), owner=owner)
        return answer

    def resolve(self, request: Any) -> tuple[AnySpec, list[str]]:
        """The typed spec for what a user wrote, and what could not be checked.

        Raises:
            InvalidSpec: with every fault.
        """
        spec = parse_spec(request)
        faults: list[FieldFault] = []
        size = command_bytes(spec.model_dump_json())
        if size > MAX_SPEC_BYTES:
            text = f"the spec, with its defaults, is {size // 1000} kB; at most "
            faults.append(FieldFault("", f"{text}{MAX_SPEC_BYTES // 1000} kB can be started"))
        warnings: list[str] = []
        if spec.deadline is not None and spec.deadline <= self._now():
            faults.append(FieldFault("deadline", f"{spec.deadline.isoformat()} is past"))
        for index, other in enumerate(spec.depends_on):
            self._check_dependency(f"depends_on[{index}]", other, spec.condition, faults)
        for field, data in spec.datasets().items():
            self._check_data(field, data, faults, warnings)
        self._check_encoder(spec, faults)
        if spec.extended_job is not None:
            faults += self._extension_faults(spec, spec.extended_job)
        if faults:
            raise InvalidSpec(faults)
        return spec, warnings

    def _check_dependency(
        self, field: str, job_id: str, condition: str, faults: list[FieldFault]
    ) -> None:
        try:
            state = self.get(job_id).state
        except NotFound as error:
            faults.append(FieldFault(field, str(error)))
            return
        if condition == "succeeded" and state in (JobState.FAILED, JobState.CANCELLED):
            faults.append(FieldFault(field, f"job {job_id} is {state.value}: it cannot succeed"))

    def _check_data(
        self, field: str, data: Data, faults: list[FieldFault], warnings: list[str]
    ) -> None:
        if isinstance(data, DigitsData) or self._data_root is None:
            return
        if isinstance(data, WebDatasetData):
            # A folder, or the first of the shards that a pattern names.
            named, relative = "shards", expand_braces(data.shards)[0]
            if data.remote:
                warnings.append(f"{field}.shards was not checked: the workers read it, not the API")
                return
        else:
            named, relative = "path", data.path
        if not self._data_root.is_dir():
            warnings.append(
                f"{field}.{named} was not checked: the API cannot see the data root "
                f"{self._data_root}"
            )
            return
        try:
            path = resolve_inside(self._data_root, relative)
        except ValueError as error:
            faults.append(FieldFault(f"{field}.{named}", str(error)))
            return
        if isinstance(data, ImageFolderData):
            if not path.is_dir():
                faults.append(FieldFault(f"{field}.path", f"'{data.path}' is not a folder"))
            elif not holds_image(path, in_classes=data.classes == "folders"):
                where = "its sub-folders, one per class" if data.classes == "folders" else "it"
                faults.append(
                    FieldFault(
                        f"{field}.path",
                        f"'{data.path}' holds no images: there must be some in {where}",
                    )
                )

    def _check_encoder(self, spec: JobSpec, faults: list[FieldFault]) -> None:
        root = self._data_root
        if spec.encoder_path is not None and root is not None and root.is_dir():
            try:
                resolve_inside(root, spec.encoder_path)
            except ValueError as error:
                faults.append(FieldFault(f"{spec.encoder_field}.path", str(error)))
        if spec.encoder_job is None:
            return
        field = f"{spec.encoder_field}.job"
        try:
            job = self.get(spec.encoder_job)
        except NotFound as error:
            faults.append(FieldFault(field, str(error)))
            return
        if job.kind != "pretrain":
            faults.append(FieldFault(field, f"job {job.id} is not a pretraining"))
        elif spec.encoder_epoch is not None:
            self._check_kept(field.replace(".job", ".epoch"), job, spec.encoder_epoch, faults)
        elif job.state in (JobState.FAILED, JobState.CANCELLED):
            faults.append(
                FieldFault(field, f"job {job.id} is {job.state.value}: it has no encoder")
            )

    def _check_kept(self, field: str, job: JobSchema, epoch: int, faults: list[FieldFault]) -> None:
        """Check that a pretraining keeps, or has kept, its encoder of an epoch."""
        spec = read_spec(job.spec, job.spec_version)
        kept = spec.kept_epochs if isinstance(spec, PretrainSpec) else ()
        ended = job.state in (JobState.FAILED, JobState.CANCELLED)
        reached = job.progress.kept_epoch if job.progress else None
        if ended:
            kept = tuple(each for each in kept if each <= (reached or 0))
        if epoch not in kept:
            listed = ", ".join(map(str, kept)) or "none"
            faults.append(
                FieldFault(
                    field,
                    f"job {job.id} keeps no encoder of epoch {epoch}; it keeps: {listed} "
                    "(evaluations[].at_epochs)",
                )
            )

    def _extension_faults(self, spec: JobSpec, extended: str) -> list[FieldFault]:
        """Why a job cannot extend another."""
        try:
            with self._jobs.read() as jobs:
                job = jobs.get(extended)
        except NotFound as error:
            return [FieldFault("extends.job", str(error))]
        if job.state != JobState.SUCCEEDED.value:
            return [FieldFault("extends.job", f"job {extended} has not succeeded")]
        before = read_spec(job.spec, job.spec_version)
        if isinstance(before, Unreadable):
            return [FieldFault("extends.job", f"the spec of job {extended}: {before.reason}")]
        return spec.extension_faults(before)

    def check_priority(self, session: Session, spec: JobSpec, owner: str | None) -> None:
        """Refuse a priority above the limit of an owner's key.

        Raises:
            Forbidden: it is.
        """
        if owner is None:
            return
        most = KeyRepository(session, self._now()).max_priority(owner)
        if most is not None and spec.priority > most:
            raise Forbidden(
                f"priority {spec.priority} is above {most}, the limit of the keys of {owner}"
            )

    def store(
        self,
        session: Session,
        spec: JobSpec,
        request: Any,
        origin: Origin = ORIGINAL,
        after: Sequence[str] = (),
    ) -> JobSchema:
        """Store a job and its follow-ups, in the caller's transaction.

        Args:
            session: the transaction.
            spec: as ``resolve`` returned it.
            request: the spec as its user wrote it.
            origin: what the job was made for.
            after: jobs that it waits for besides those of its spec.

        Raises:
            QuotaExceeded: the owner's quota is used up.
            Forbidden: the priority is above the limit of the owner's key.
        """
        jobs = JobRepository(session, self._now())
        if origin.owner is not None:
            quota = KeyRepository(session, self._now()).quota(origin.owner)
            _check_quota(jobs, quota, spec, origin.owner)
            self.check_priority(session, spec, origin.owner)
        stored = self._add(jobs, spec, request, origin, after)
        for follow_up in spec.follow_ups(stored.id):
            self._add(
                jobs,
                follow_up,
                follow_up.model_dump(mode="json"),
                Origin(schedule_id=origin.schedule_id, owner=origin.owner),
            )
        return self.answer(jobs.get(stored.id))

    def _add(
        self,
        jobs: JobRepository,
        spec: JobSpec,
        request: Any,
        origin: Origin,
        after: Sequence[str] = (),
    ) -> Job:
        dependencies: dict[str, str | int] = dict.fromkeys(after, "finished")
        dependencies |= dict.fromkeys(spec.depends_on, spec.condition)
        if spec.encoder_job is not None:
            # For a kept encoder, the number of its epoch.
            dependencies[spec.encoder_job] = spec.encoder_epoch or "succeeded"
        if spec.extended_job is not None:
            dependencies[spec.extended_job] = "succeeded"
        waits = [
            f"for epoch {condition} of job {other}"
            if isinstance(condition, int)
            else f"for job {other}"
            for other, condition in dependencies.items()
            if other != spec.extended_job
        ]
        if spec.start_after is not None and spec.start_after > self._now():
            waits.append(f"until {spec.start_after.isoformat()}")
        needs = spec.needs()
        job = Job(
            id=new_id(),
            kind=spec.kind,
            name=spec.name,
            experiment=spec.experiment,
            priority=spec.priority,
            spec=spec.model_dump(mode="json"),
            spec_version=VERSION,
            version=1,
            request=request,
            workers=needs.count,
            cpus_per_worker=needs.bundle.cpus,
            gpus_per_worker=needs.bundle.gpus,
            trials_at_once=needs.groups,
            max_attempts=spec.retry.max_attempts,
            worker_sizes=list(spec.elastic_sizes) or None,
            preemptible=spec.preemptible,
            state=(JobState.WAITING if waits else JobState.QUEUED).value,
            reason=f"waits {', '.join(waits)}" if waits else None,
            retry_of=origin.retry_of,
            extends=spec.extended_job,
            promoted_from=origin.promoted_from,
            parent_id=spec.parent_job or spec.extended_job or origin.promoted_from,
            schedule_id=origin.schedule_id,
            owner=origin.owner,
            start_after=spec.start_after,
            deadline=spec.deadline,
            max_runtime=spec.max_runtime and spec.max_runtime.total_seconds(),
            summary={},
            step_cost=step_cost_key(spec) if isinstance(spec, PretrainSpec) else None,
            created_at=self._now(),
        )
        jobs.add(job, spec.labels, str(origin), dependencies)
        return job

    def _first_answer(
        self, first_digest: str, answer: dict[str, Any], digest: str
    ) -> tuple[JobSchema, bool]:
        if first_digest != digest:
            raise IdempotencyConflict(
                "this Idempotency-Key was used before with another body: a new job needs a new one"
            )
        return JobSchema.model_validate(answer), True

    def answer(self, job: Job) -> JobSchema:
        """The answer for a row loaded with its parts."""
        return JobSchema.of(job, self.mlflow_public_url)


def _readable(found: Iterable[tuple[Event, Job]]) -> list[JobEvent]:
    """Events without those that this version cannot read: one of them must not hide the others."""
    events = []
    for event, job in found:
        with suppress(ValidationError):
            events.append(JobEvent.of_job(event, job))
    return events


class _AnsweredMeanwhile(Exception):
    """Another request with the same idempotency key committed first: this one rolls back."""


def _check_quota(
    jobs: JobRepository, quota: tuple[int | None, int | None], spec: JobSpec, owner: str
) -> None:
    max_jobs, max_gpus = quota
    if max_jobs is None and max_gpus is None:
        return
    # One that is being cancelled, or is out of time, gives its room up by itself.
    live = [
        job
        for job in jobs.unfinished_of_owner(owner)
        if job.stopping_for is None or job.stopping_for in UNCOUNTED
    ]
    new = [spec, *spec.follow_ups("new")]
    if max_jobs is not None and len(live) + len(new) > max_jobs:
        raise QuotaExceeded(
            f"{owner} may have {max_jobs} unfinished jobs and has {len(live)}: "
            f"this would add {len(new)}"
        )
    if max_gpus is not None:
        used = sum(job.needs.gpus for job in live if job.needs is not None)
        asked = sum(each.needs().gpus for each in new)
        if used + asked > max_gpus:
            raise QuotaExceeded(
                f"{owner} may request {max_gpus} GPUs at once and has requested {used:g}: "
                f"this would add {asked:g}"
            )
