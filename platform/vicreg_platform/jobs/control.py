"""What the owner of a job does with it after its submission. One use case is one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from pydantic import TypeAdapter, ValidationError

from vicreg_platform.clock import Clock, utc_now
from vicreg_platform.database import Database
from vicreg_platform.errors import IllegalTransition, InvalidSpec, PreconditionFailed
from vicreg_platform.jobs.repository import JobRepository, Jobs
from vicreg_platform.jobs.schemas import Extended, ExtensionSchedule, JobSchema
from vicreg_platform.jobs.service import JobService, Origin
from vicreg_platform.jobs.states import ON_CLUSTER, TERMINAL, UNCOUNTED, JobState, StopCause
from vicreg_platform.jobs.tables import Job
from vicreg_platform.specs import AnySpec, FieldFault, PretrainSpec, SweepSpec, parse_spec
from vicreg_platform.specs.base import Labels
from vicreg_platform.specs.overrides import overridden
from vicreg_platform.specs.pretrain import dividing
from vicreg_platform.specs.stored import VERSION, require_spec

CHANGEABLE = ("priority", "labels", "preemptible", "max_runtime", "deadline")
OF_A_SWEEP = ("search.trials", "concurrency")
_LABELS: TypeAdapter[dict[str, str]] = TypeAdapter(Labels)


class JobControl:
    """Pauses, resumes, changes and extends jobs.

    Args:
        database: where they are stored.
        service: checks and stores specs.
        now: the clock.
    """

    def __init__(self, database: Database, service: JobService, now: Clock = utc_now) -> None:
        self._database = database
        self._jobs = Jobs(database, now)
        self._service = service
        self._now = now

    def pause(self, job_id: str) -> JobSchema:
        """Free what a job occupies until it is resumed; it saves the step that it is at.

        Raises:
            NotFound: there is no such job.
            IllegalTransition: it has ended, or is about to.
        """
        with self._jobs.write() as jobs:
            jobs.lock(job_id)
            job = jobs.get(job_id)
            state = JobState.read(job.state)
            ending = job.stopping_for is not None and job.stopping_for not in UNCOUNTED
            if state in TERMINAL or ending:
                raise IllegalTransition(f"job {job_id} is {state.value}: it cannot be paused")
            if state is JobState.PAUSED or job.stopping_for is StopCause.PAUSED:
                return self._service.answer(job)
            on_cluster = state in ON_CLUSTER
            jobs.transition(
                job_id,
                JobState.STOPPING if on_cluster else JobState.PAUSED,
                message="paused by the user",
                only_from=[state],
                stop_cause=StopCause.PAUSED if on_cluster else None,
            )
            return self._service.answer(jobs.get(job_id))

    def resume(self, job_id: str, workers: int | None = None) -> JobSchema:
        """Resume a paused job from the step at which it was paused.

        Args:
            job_id: the job.
            workers: of a pretraining: how many it continues with; default: as before.

        Raises:
            NotFound: there is no such job.
            IllegalTransition: it is not paused.
            InvalidSpec: it cannot run with that many workers.
        """
        with self._jobs.write() as jobs:
            jobs.lock(job_id)
            job = jobs.get(job_id)
            pausing = job.stopping_for is StopCause.PAUSED
            if job.state != JobState.PAUSED.value and not pausing:
                raise IllegalTransition(f"job {job_id} is {job.state}: only a paused one resumes")
            if workers is not None:
                _check_workers(job, workers)
                jobs.set_workers(job_id, workers)
            jobs.transition(
                job_id,
                # One that has not stopped yet is queued when it has.
                JobState.STOPPING if pausing else JobState.WAITING,
                message="resumed by the user",
                stop_cause=StopCause.RESIZED if pausing else None,
            )
            return self._service.answer(jobs.get(job_id))

    def change(
        self,
        job_id: str,
        patch: Mapping[str, Any],
        version: int | None = None,
        caller: str | None = None,
    ) -> JobSchema:
        """Change a job by a merge patch of its spec (RFC 7396).

        Args:
            job_id: the job.
            patch: the fields to change; null sets one back to its default, or removes a label.
            version: the job's version must be this one, if it is given.
            caller: who asks; their key limits the priority.

        Raises:
            NotFound: there is no such job.
            PreconditionFailed: the job has another version.
            IllegalTransition: it has ended: only its labels can change.
            InvalidSpec: a field cannot change, or not to this value.
            Forbidden: the priority is above the limit of the caller's key.
        """
        with self._database.write() as session:
            jobs = JobRepository(session, self._now())
            jobs.lock(job_id)
            job = jobs.get(job_id)
            if version is not None and version != job.version:
                raise PreconditionFailed(
                    f"job {job_id} has been changed meanwhile: its version is {job.version}"
                )
            _check_fields(job, patch)
            changed: dict[str, Any] = {}
            rest = {name: value for name, value in patch.items() if name != "labels"}
            if rest:
                spec = self._changed(job, rest)
                self._service.check_priority(session, spec, caller)
                changed = self._columns(job, spec)
            labels = patch.get("labels")
            if labels is not None:
                now = {label.key: label.value for label in job.labels}
                kept = {k: v for k, v in (now | dict(labels)).items() if v is not None}
                _check_labels(kept)
                jobs.set_labels(job_id, kept)
                # A retry has them too.
                changed["spec"] = changed.get("spec", job.spec) | {"labels": kept}
            jobs.change(job_id, **changed, version=job.version + 1)
            jobs.note(job_id, f"changed by its owner: {_words(patch)}")
            if rest.keys() & {"search", "concurrency"} and job.state in (
                JobState.STARTING.value,
                JobState.RUNNING.value,
            ):
                # Its driver reads the spec when it starts, and trials save the step they are at.
                jobs.transition(
                    job_id,
                    JobState.STOPPING,
                    message="restarts with the changed search",
                    stop_cause=StopCause.RESIZED,
                )
            return self._service.answer(jobs.get(job_id))

    def extend(
        self,
        job_id: str,
        epochs: int,
        schedule: ExtensionSchedule,
        owner: str | None = None,
    ) -> Extended:
        """A new job that trains a succeeded pretraining on, from its last checkpoint.

        Args:
            job_id: the pretraining.
            epochs: of the whole training, those that are trained already included.
            schedule: how the learning rate continues.
            owner: of the new job.

        Raises:
            NotFound: there is no such job.
            IllegalTransition: it is not a pretraining that has succeeded.
            InvalidSpec: there are not more epochs than before.
        """
        job = self._succeeded(job_id, "pretrain", "a pretraining that has succeeded is extended")
        spec = require_spec(job.spec, job.spec_version)
        assert isinstance(spec, PretrainSpec)
        trained, warmup = spec.training.epochs, spec.training.warmup_epochs
        if epochs <= trained:
            raise InvalidSpec(
                [FieldFault("epochs", f"must be more than {trained}, which are trained already")]
            )
        if schedule is ExtensionSchedule.REWARM:
            warmup = min(warmup, (epochs - trained) // 2)
        changes = {
            "training.epochs": epochs,
            "training.warmup_epochs": warmup,
            "extends": {"job": job_id, "epochs": trained, "schedule": schedule.value},
        }
        stored = self._extended(job, spec, changes, owner)
        return Extended(job=stored, warnings=_differences(spec, epochs, schedule))

    def add_trials(self, job_id: str, trials: int, owner: str | None = None) -> Extended:
        """A new sweep that begins with the trials of a succeeded one, and tries more.

        Args:
            job_id: the sweep.
            trials: of both, those that are tried already included.
            owner: of the new job.

        Raises:
            NotFound: there is no such job.
            IllegalTransition: it is not a sweep that has succeeded.
            InvalidSpec: there are not more trials than before, or no more in the grid.
        """
        job = self._succeeded(job_id, "sweep", "a sweep that has succeeded is given more trials")
        spec = require_spec(job.spec, job.spec_version)
        assert isinstance(spec, SweepSpec)
        tried = spec.search.trials
        if spec.combinations is not None and spec.combinations <= tried:
            raise InvalidSpec([FieldFault("trials", "the whole grid has been tried already")])
        if trials <= tried:
            raise InvalidSpec(
                [FieldFault("trials", f"must be more than {tried}, which are tried already")]
            )
        changes = {"search.trials": trials, "extends": {"job": job_id, "trials": tried}}
        return Extended(job=self._extended(job, spec, changes, owner), warnings=[])

    def _succeeded(self, job_id: str, kind: str, only: str) -> Job:
        """A job that is extended; ``only`` says, in words, which are."""
        with self._jobs.read() as jobs:
            job = jobs.get(job_id)
        if job.kind != kind or job.state != JobState.SUCCEEDED.value:
            raise IllegalTransition(f"job {job_id} is a {job.state} {job.kind}: only {only}")
        return job

    def _extended(
        self, job: Job, spec: AnySpec, changes: dict[str, Any], owner: str | None
    ) -> JobSchema:
        """Store the job that extends another."""
        changes = changes | {"start_after": None, "deadline": None, "depends_on": []}
        resolved, _ = self._service.resolve(overridden(spec.model_dump(mode="json"), changes))
        with self._database.write() as session:
            return self._service.store(
                session,
                resolved,
                overridden(job.request, changes),
                Origin(extends=job.id, owner=owner),
            )

    def _changed(self, job: Job, patch: Mapping[str, Any]) -> AnySpec:
        before = require_spec(job.spec, job.spec_version)
        given = before.model_dump(mode="json")
        for name, value in patch.items():
            if value is None:
                given.pop(name, None)
            else:
                given = overridden(given, {name: value})
        spec = parse_spec(given)
        if spec.deadline is not None and spec.deadline <= self._now() and "deadline" in patch:
            raise InvalidSpec([FieldFault("deadline", f"{spec.deadline.isoformat()} is past")])
        if isinstance(spec, SweepSpec) and isinstance(before, SweepSpec):
            least = before.search.trials
            if spec.search.trials < least:
                text = f"must be {least} or more: trials can only be added"
                raise InvalidSpec([FieldFault("search.trials", text)])
        return spec

    def _columns(self, job: Job, spec: AnySpec) -> dict[str, Any]:
        runtime: timedelta | None = spec.max_runtime
        columns: dict[str, Any] = {
            "spec": spec.model_dump(mode="json"),
            "spec_version": VERSION,
            "priority": spec.priority,
            "preemptible": spec.preemptible,
            "deadline": spec.deadline,
            "max_runtime": runtime and runtime.total_seconds(),
        }
        if isinstance(spec, SweepSpec):
            columns["trials_at_once"] = spec.needs().groups
        return columns


def _check_fields(job: Job, patch: Mapping[str, Any]) -> None:
    """Refuse fields that cannot change, all at once."""
    changeable = [*CHANGEABLE, *(OF_A_SWEEP if job.kind == "sweep" else ())]
    named: list[str] = []
    for name, value in patch.items():
        if name == "search" and isinstance(value, dict):
            named += [f"search.{each}" for each in value]
        else:
            named.append(name)
    refused = [name for name in named if name not in changeable]
    if refused:
        text = f"cannot be changed: {', '.join(changeable[:-1])} and {changeable[-1]} can"
        raise InvalidSpec([FieldFault(name, text) for name in refused])
    labels = patch.get("labels", {})
    if not isinstance(labels, dict):
        raise InvalidSpec([FieldFault("labels", "must be a mapping of fields")])
    if JobState.read(job.state) in TERMINAL and patch.keys() - {"labels"}:
        raise IllegalTransition(f"job {job.id} has ended, as {job.state}: only its labels change")


def _check_workers(job: Job, workers: int) -> None:
    spec = require_spec(job.spec, job.spec_version)
    if not isinstance(spec, PretrainSpec):
        text = f"a job of kind {job.kind} has no number of workers to change"
        raise InvalidSpec([FieldFault("workers", text)])
    possible = dividing(spec.training.batch_size, spec.training.accumulate)
    if workers not in possible:
        text = f"{workers} do not divide {spec.training.batch_size} images evenly: "
        raise InvalidSpec(
            [FieldFault("workers", f"{text}{', '.join(map(str, possible))} would do")]
        )


def _check_labels(labels: dict[str, str]) -> None:
    try:
        _LABELS.validate_python(labels)
    except ValidationError as error:
        raise InvalidSpec(
            [
                FieldFault(".".join(("labels", *map(str, fault["loc"][:1]))), fault["msg"])
                for fault in error.errors(include_url=False)
            ]
        ) from None


def _words(patch: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} to {value}" for name, value in patch.items())[:500]


def _differences(spec: PretrainSpec, epochs: int, schedule: ExtensionSchedule) -> list[str]:
    """How the extended run differs from one of the whole length."""
    trained = spec.training.epochs
    text = (
        f"the learning rate of epochs 1 to {trained} had fallen to 0.001 of its peak by epoch "
        f"{trained}; "
    )
    if schedule is ExtensionSchedule.ANNEAL:
        text += f"from there, it is that of one run of {epochs} epochs"
    else:
        text += f"from there, it rises to the peak once more, and falls until epoch {epochs}"
    warnings = [f"{text}. One run of {epochs} epochs would have ended elsewhere"]
    if spec.branches.weights == "momentum":
        warnings.append(
            f"the momentum of the second branch had risen to 1 by epoch {trained}; it continues as "
            f"in one run of {epochs} epochs"
        )
    return warnings
