"""The reconcile loop, on a cluster and a clock that the test controls."""

from __future__ import annotations

import json
import shutil
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text, update

from tests.fakes import FakeCluster, FakeTracking
from tests.integration.conftest import wait_until
from vicreg_platform.cluster import SubmissionState
from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.contract.failure_class import FAILURE_LINE, FailureClass
from vicreg_platform.contract.timeline import AttemptTimeline, Timeline
from vicreg_platform.contract.trial import Trial, TrialState
from vicreg_platform.database import Database
from vicreg_platform.dispatch import loop
from vicreg_platform.dispatch.lease import lease_is_held
from vicreg_platform.dispatch.loop import Dispatcher
from vicreg_platform.errors import Conflict, InvalidSpec, TrackingUnavailable, Unavailable
from vicreg_platform.jobs.control import JobControl
from vicreg_platform.jobs.repository import JobFilter, JobRepository
from vicreg_platform.jobs.schemas import JobSchema
from vicreg_platform.jobs.service import JobService
from vicreg_platform.jobs.states import JobState
from vicreg_platform.jobs.tables import Job
from vicreg_platform.keys.schemas import Role
from vicreg_platform.keys.service import KeyService
from vicreg_platform.needs import Bundle
from vicreg_platform.schedules.service import ScheduleService
from vicreg_platform.settings import Settings
from vicreg_platform.specs.stored import VERSION

DIGITS = {"kind": "pretrain", "data": {"source": "digits"}}


@dataclass
class World:
    """A platform whose neighbours and clock the test controls."""

    database: Database
    settings: Settings
    cluster: FakeCluster = field(default_factory=FakeCluster)
    tracking: FakeTracking = field(default_factory=FakeTracking)
    moment: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def __post_init__(self) -> None:
        self.dispatcher = self.new_dispatcher()
        self.jobs = JobService(self.database, self.settings.data_root, "http://mlflow", self.now)

    def now(self) -> datetime:
        return self.moment

    def new_dispatcher(self) -> Dispatcher:
        return Dispatcher(self.database, self.cluster, self.tracking, self.settings, self.now)

    def submit(self, **changes: Any) -> str:
        return self.jobs.submit(DIGITS | changes)[0].id

    def round(self, after_seconds: float = 0.0) -> None:
        self.moment += timedelta(seconds=after_seconds)
        with suppress(TrackingUnavailable):  # the last of the loops needs MLflow
            self.dispatcher.round()

    def job(self, job_id: str) -> JobSchema:
        return self.jobs.get(job_id)

    def drives(self, job_id: str, attempt: int = 1) -> None:
        """The driver of an attempt comes up, and creates the run."""
        job = self.job(job_id)
        self.cluster.set(f"{job_id}-{attempt}", SubmissionState.RUNNING)
        self.tracking.ensure_run(job_id, job.name, "", job.spec, None)

    def ends(self, submission: str, exit_code: int, reason: str | None = None) -> None:
        if reason is not None:
            self.cluster.logs[submission] = f"working\n{FAILURE_LINE}{reason}\n"
        state = SubmissionState.FAILED if exit_code else SubmissionState.SUCCEEDED
        self.cluster.set(submission, state, exit_code)

    def all_jobs(self) -> list[JobSchema]:
        return self.jobs.find(JobFilter(), 100, None).items

    def states(self, job_id: str) -> list[str]:
        return [event.after.value for event in self.jobs.events(job_id, 100, None).items]


@pytest.fixture
def world(tmp_path: Path) -> World:
    settings = Settings(
        database_url=f"sqlite:///{tmp_path}/db",
        ray_url="",
        mlflow_url="http://mlflow",
        mlflow_public_url="http://mlflow",
        storage=str(tmp_path / "storage"),
        data_root=tmp_path,
        retry_backoff_seconds=10,
    )
    database = Database(settings.database_url)
    database.migrate()
    return World(database, settings)


def started(world: World, **changes: Any) -> tuple[str, str]:
    """A job whose driver is up, and the id of its first submission."""
    job = world.submit(**changes)
    world.round()
    world.drives(job)
    world.round()
    return job, f"{job}-1"


def test_a_job_goes_from_the_queue_to_its_end(world: World) -> None:
    job, submission = started(world)
    world.tracking.metrics = {"train/loss": 3.0}
    world.cluster.logs[submission] = "epoch 1\n"
    world.ends(submission, 0)
    world.round()
    assert world.states(job) == ["queued", "starting", "running", "succeeded"]
    assert world.job(job).summary == {"train/loss": 3.0}
    assert world.tracking.runs[f"run-{job}"] == "FINISHED"
    assert world.tracking.logs[f"run-{job}", 1] == "epoch 1\n"


def test_an_attempt_tells_when_it_reached_what(world: World) -> None:
    job, submission = started(world)
    driver_up = world.now() + timedelta(seconds=2)
    first_step = driver_up + timedelta(seconds=3)
    timeline = Timeline(driver_up=driver_up, first_step=first_step)
    world.tracking.timeline = AttemptTimeline(attempt=1, timeline=timeline)
    world.round(after_seconds=6)
    world.round()
    world.ends(submission, FailureClass.INFRASTRUCTURE.exit_code)
    world.round(after_seconds=1)
    world.round()  # its log is archived
    (attempt,) = world.job(job).attempts
    assert attempt.timeline == timeline
    assert list(attempt.moments()) == [
        "queued", "submitted", "driver_up", "first_step", "ended", "archived",
    ]  # fmt: skip
    told = [
        (event.message, event.at, event.attempt)
        for event in world.jobs.events(job, 100, None).items
        if event.before is event.after
    ]
    assert told == [("driver up", driver_up, 1), ("first step", first_step, 1)]
    # The next attempt was queued when this one had failed, and has reached nothing.
    world.round(after_seconds=20)
    _, second = world.job(job).attempts
    assert second.queued_at == attempt.ended_at
    assert second.timeline is None


def test_a_job_that_has_succeeded_has_its_last_metrics(world: World) -> None:
    job, submission = started(world)

    def written(**moments: datetime) -> None:
        timeline = Timeline(driver_up=world.now(), **moments)
        world.tracking.timeline = AttemptTimeline(attempt=1, timeline=timeline)

    written()
    world.round()
    world.ends(submission, 0)
    world.round(after_seconds=1)  # the cluster's loop comes before the one that reads
    assert world.job(job).state is JobState.RUNNING
    world.tracking.metrics = {"knn/top1": 0.9}
    written(published=world.now())
    world.round(after_seconds=1)
    world.round()
    assert world.job(job).state is JobState.SUCCEEDED
    assert world.job(job).summary == {"knn/top1": 0.9}


def test_a_success_does_not_wait_for_mlflow(world: World) -> None:
    job, submission = started(world)
    timeline = Timeline(driver_up=world.now())
    world.tracking.timeline = AttemptTimeline(attempt=1, timeline=timeline)
    world.round()
    world.tracking.reachable = False
    world.ends(submission, 0)
    world.round(after_seconds=1)
    assert world.job(job).state is JobState.RUNNING
    world.round(after_seconds=6)
    assert world.job(job).state is JobState.SUCCEEDED


def test_a_job_starts_as_soon_as_it_is_posted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "PAUSE_SECONDS", 60.0)
    stop = threading.Event()
    thread = threading.Thread(target=world.dispatcher.run, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: lease_is_held(world.database, world.now))
        job = world.submit()
        wait_until(lambda: world.job(job).state is JobState.STARTING, 20)
    finally:
        stop.set()
        thread.join(20)
    assert not thread.is_alive()


def test_a_job_on_a_cluster_that_scales_says_that_it_waits_for_a_node(world: World) -> None:
    world.settings = world.settings.model_copy(update={"ray_nodes": (Bundle(cpus=4, gpus=0),)})
    world.dispatcher = world.new_dispatcher()
    job = world.submit()
    world.round()
    world.round()
    assert (world.job(job).state, world.job(job).reason) == (
        JobState.STARTING,
        "waits for a node of the cluster to come up",
    )
    world.cluster.set(f"{job}-1", SubmissionState.RUNNING)
    world.round()
    assert (world.job(job).state, world.job(job).reason) == (JobState.RUNNING, None)


def test_the_driver_is_told_all_it_needs(world: World) -> None:
    job, submission = started(world)
    *command, argument = world.cluster.submitted[submission].arguments
    assignment = Assignment.model_validate_json(argument)
    assert command == ["python", "-m", "vicreg_workers.main"]
    assert (assignment.job_id, assignment.attempt) == (job, 1)
    assert assignment.run_id is None  # its driver creates the run, whether or not MLflow is there
    assert assignment.storage == world.settings.storage


def test_one_process_holds_its_resources_and_a_driver_of_several_none(world: World) -> None:
    _, alone = started(world)
    _, several = started(world, resources={"workers": 2})
    assert world.cluster.submitted[alone].driver == Bundle(1, 0)
    assert world.cluster.submitted[several].driver == Bundle(0, 0)


@pytest.mark.parametrize(
    "failure", [FailureClass.USER, FailureClass.DIVERGED, FailureClass.OUT_OF_MEMORY]
)
def test_a_failure_that_would_repeat_itself_is_final(world: World, failure: FailureClass) -> None:
    job, submission = started(world)
    world.ends(submission, failure.exit_code, "no images in /data")
    world.round()
    ended = world.job(job)
    assert (ended.state, ended.failure) == (JobState.FAILED, failure.value)
    assert ended.reason == "no images in /data"
    assert world.tracking.runs[f"run-{job}"] == "FAILED"


@pytest.mark.parametrize("exit_code", [FailureClass.INFRASTRUCTURE.exit_code, 137, -9, 1])
def test_an_infrastructure_failure_is_tried_again_after_a_wait(
    world: World, exit_code: int
) -> None:
    job, submission = started(world)
    world.ends(submission, exit_code)
    world.round()
    assert world.job(job).state is JobState.QUEUED
    world.round(after_seconds=9)
    assert world.job(job).state is JobState.QUEUED
    world.round(after_seconds=2)
    assert world.job(job).state is JobState.STARTING
    assert set(world.cluster.submitted) == {f"{job}-1", f"{job}-2"}


def test_the_wait_doubles_and_attempts_run_out(world: World) -> None:
    job = world.submit(retry={"max_attempts": 3})
    for number, wait in ((1, 10), (2, 20)):
        world.round()
        world.ends(f"{job}-{number}", 137)
        world.round()
        world.round(after_seconds=wait - 1)
        assert world.job(job).state is JobState.QUEUED
        world.round(after_seconds=1)
    world.ends(f"{job}-3", 137)
    world.round()
    ended = world.job(job)
    assert (ended.state, ended.failure) == (JobState.FAILED, "infrastructure")
    assert [attempt.outcome for attempt in ended.attempts] == ["infrastructure"] * 3


def test_a_lost_ray_head_costs_an_attempt_not_the_job(world: World) -> None:
    job, _ = started(world)
    world.cluster.lose_everything()
    world.round()
    assert "head was lost" in (world.job(job).reason or "")
    world.round(after_seconds=11)
    assert f"{job}-2" in world.cluster.submitted


def test_while_ray_does_not_answer_nothing_is_decided(world: World) -> None:
    job, _ = started(world)
    world.cluster.reachable = False
    with pytest.raises(Unavailable):
        world.round()
    assert world.job(job).state is JobState.RUNNING
    world.cluster.reachable = True
    world.round()
    assert len(world.job(job).attempts) == 1


def test_a_crash_between_intent_and_submission_submits_once(world: World) -> None:
    job = world.submit()
    world.cluster.submit = lambda submission: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        world.round()
    del world.cluster.submit
    assert world.job(job).attempts[0].submitted_at is None
    world.dispatcher = world.new_dispatcher()
    world.round(after_seconds=60)  # the lease of the dead one has expired
    assert list(world.cluster.submitted) == [f"{job}-1"]
    assert world.job(job).attempts[0].submitted_at is not None


def test_a_crash_after_the_submission_does_not_submit_again(world: World) -> None:
    job = world.submit()
    submit = world.cluster.submit

    def submit_and_die(submission: Any) -> None:
        submit(submission)
        raise KeyboardInterrupt

    world.cluster.submit = submit_and_die  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        world.round()
    del world.cluster.submit
    world.cluster.set(f"{job}-1", SubmissionState.RUNNING)
    world.dispatcher = world.new_dispatcher()
    world.round(after_seconds=60)
    assert world.job(job).state is JobState.RUNNING
    assert len(world.job(job).attempts) == 1


def test_a_second_dispatcher_waits_for_the_firsts_lease(world: World) -> None:
    world.round()
    second = world.new_dispatcher()
    job = world.submit()
    second.round()
    assert world.job(job).state is JobState.QUEUED
    world.moment += timedelta(seconds=16)
    second.round()
    assert world.job(job).state is JobState.STARTING


def test_a_queued_job_is_cancelled_at_once(world: World) -> None:
    job = world.submit()
    assert world.jobs.cancel(job).state is JobState.CANCELLED
    world.round()
    assert world.cluster.submitted == {}


def test_a_running_job_is_stopping_until_it_is_gone(world: World) -> None:
    job, submission = started(world)
    assert world.jobs.cancel(job).state is JobState.STOPPING
    world.round()
    world.round()
    assert world.cluster.stops == [submission, submission]  # asked again until it has stopped
    world.cluster.set(submission, SubmissionState.STOPPED)
    world.round()
    assert world.job(job).state is JobState.CANCELLED
    assert world.tracking.runs[f"run-{job}"] == "KILLED"


def test_a_job_that_succeeds_while_it_is_stopped_stays_cancelled(world: World) -> None:
    job, submission = started(world)
    world.jobs.cancel(job)
    world.ends(submission, 0)
    world.round()
    assert world.job(job).state is JobState.CANCELLED


def test_a_stopping_job_that_ray_never_had_is_cancelled(world: World) -> None:
    job, _ = started(world)
    world.jobs.cancel(job)
    world.cluster.lose_everything()
    world.round()
    assert world.job(job).state is JobState.CANCELLED


def test_only_what_fits_is_submitted_in_the_order_of_priority_then_age(world: World) -> None:
    world.cluster.nodes = (Bundle(2, 0),)
    first = world.submit()
    second = world.submit()
    urgent = world.submit(priority=5, resources={"workers": 2})
    world.round()
    assert list(world.cluster.submitted) == [f"{urgent}-1"]
    assert "waits for room" in (world.job(first).reason or "")
    world.ends(f"{urgent}-1", 0)
    world.round()
    assert list(world.cluster.submitted)[1:] == [f"{first}-1", f"{second}-1"]


def test_a_large_job_is_not_overtaken_by_small_ones(world: World) -> None:
    world.cluster.nodes = (Bundle(2, 0),)
    _, running = started(world)
    large = world.submit(resources={"workers": 2})
    world.submit()
    world.round()
    assert list(world.cluster.submitted) == [running]
    world.ends(running, 0)
    world.round()
    assert f"{large}-1" in world.cluster.submitted


def test_what_can_never_fit_fails_with_its_reason(world: World) -> None:
    world.cluster.nodes = (Bundle(4, 0), Bundle(4, 0))
    job = world.submit(resources={"workers": 2, "cpus_per_worker": 5})
    small = world.submit()
    world.round()
    assert world.job(job).state is JobState.QUEUED
    assert "waits for a larger cluster" in (world.job(job).reason or "")
    assert world.job(small).state is JobState.STARTING  # it does not block the others
    world.round(after_seconds=601)
    ended = world.job(job)
    assert (ended.state, ended.failure) == (JobState.FAILED, "user")
    assert "2 × 5 CPUs" in (ended.reason or "")


def test_a_cluster_without_nodes_is_waited_for(world: World) -> None:
    world.cluster.nodes = ()
    job = world.submit()
    world.round()
    assert world.job(job).state is JobState.QUEUED


def test_a_cluster_that_is_not_whole_yet_is_waited_for(world: World) -> None:
    world.cluster.nodes = (Bundle(1, 0),)
    job = world.submit(resources={"workers": 4})
    world.round()
    world.cluster.nodes = (Bundle(4, 0),)
    world.round(after_seconds=599)
    assert world.job(job).state is JobState.STARTING


def test_a_job_whose_run_is_gone_holds_up_no_other(world: World) -> None:
    job, submission = started(world)
    world.tracking.gone = f"run-{job}"
    world.ends(submission, 0)
    other = world.submit()
    world.round()
    assert world.job(job).state is JobState.SUCCEEDED
    assert world.job(other).state is JobState.STARTING


def test_the_best_of_a_sweep_of_an_older_version_is_trained_as_its_trials_were(
    world: World,
) -> None:
    """Before ``augmentation.resample``, all views were cropped by Pillow."""
    job = world.jobs.submit(sweep(1, 1))[0].id
    with world.database.write() as session:
        session.execute(
            text("UPDATE jobs SET spec = :spec, spec_version = 2, state = 'succeeded'"),
            {"spec": json.dumps(world.job(job).spec | {"forgotten": 1})},
        )
    promoted = world.jobs.promote(job, trial(0, TrialState.SUCCEEDED, 0.5))
    assert promoted.spec["augmentation"]["resample"] == "pillow"


@pytest.mark.parametrize("spec", ['{"kind": "old"}', "[]", '"text"', "{}"])
def test_a_job_that_cannot_be_read_is_explained_and_holds_up_no_other(
    world: World, spec: str
) -> None:
    broken = world.submit()
    with world.database.write() as session:
        session.execute(text("UPDATE jobs SET spec = :spec"), {"spec": spec})
    other = world.submit()
    world.round()
    with world.database.read() as session:
        state, reason = session.execute(
            text("SELECT state, reason FROM jobs WHERE id = :id"), {"id": broken}
        ).one()
    assert state == "queued"
    assert reason.startswith("its spec is unreadable: ")
    assert world.job(other).state is JobState.STARTING
    assert other in [job.id for job in world.all_jobs()]


def test_a_job_of_a_newer_version_waits_for_its_dispatcher(world: World) -> None:
    job = world.submit()
    with world.database.write() as session:
        spec = json.dumps(world.job(job).spec | {"novelty": 1})
        session.execute(
            text("UPDATE jobs SET spec = :spec, spec_version = :version"),
            {"spec": spec, "version": VERSION + 1},
        )
    world.round()
    assert world.job(job).state is JobState.QUEUED
    assert "newer version" in (world.job(job).reason or "")


def test_a_running_job_counts_without_its_spec(world: World) -> None:
    world.cluster.nodes = (Bundle(2, 0),)
    _, submission = started(world, resources={"workers": 2})
    with world.database.write() as session:
        session.execute(text("UPDATE jobs SET spec = '{}'"))
    small = world.submit()
    world.round()
    assert world.job(small).state is JobState.QUEUED
    world.ends(submission, 0)
    world.round()
    assert world.job(small).state is JobState.STARTING


def test_a_refused_submission_is_tried_again(world: World) -> None:
    world.cluster.refuses = "no agent"
    job = world.submit()
    world.round()
    assert world.job(job).state is JobState.QUEUED
    assert "no agent" in (world.job(job).reason or "")


def test_evaluations_wait_for_the_encoder_and_read_it_from_its_run(world: World) -> None:
    job, submission = started(world, evaluations=[{"protocol": {"name": "knn"}}])
    (waiting,) = [j for j in world.all_jobs() if j.kind == "evaluate"]
    assert waiting.state is JobState.WAITING
    world.ends(submission, 0)
    world.round()
    argument = world.cluster.submitted[f"{waiting.id}-1"].arguments[-1]
    assert Assignment.model_validate_json(argument).encoder_run_id == f"run-{job}"
    world.ends(f"{waiting.id}-1", 64, "no module named torch")  # before it created its run
    world.round()
    assert world.tracking.parents[f"run-{waiting.id}"] == f"run-{job}"


def test_evaluations_of_a_failed_pretraining_are_cancelled(world: World) -> None:
    job, submission = started(world, evaluations=[{"protocol": {"name": "knn"}}])
    world.ends(submission, FailureClass.USER.exit_code, "bad data")
    world.round()
    (evaluation,) = [j for j in world.all_jobs() if j.kind == "evaluate"]
    assert evaluation.state is JobState.CANCELLED
    assert job in (evaluation.reason or "")


def test_a_job_starts_without_mlflow_and_its_run_is_found_later(world: World) -> None:
    world.tracking.reachable = False
    job = world.submit()
    world.round()
    assert world.job(job).state is JobState.STARTING
    world.tracking.reachable = True
    world.drives(job)
    world.round()
    mlflow = world.job(job).mlflow
    assert mlflow is not None
    assert mlflow.run_id == f"run-{job}"


def test_the_run_of_a_job_whose_driver_never_came_up_keeps_its_log(world: World) -> None:
    job = world.submit()
    world.round()
    world.cluster.logs[f"{job}-1"] = "no module named torch\n"
    world.ends(f"{job}-1", 64, "broken image")
    world.round()
    world.round()
    assert world.tracking.runs[f"run-{job}"] == "FAILED"
    assert "broken image" in world.tracking.logs[f"run-{job}", 1]


def test_labels_that_change_while_the_run_is_given_them_are_not_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the moment in ``mark_labelled``, the second change would count as done."""
    job, _ = started(world)
    control = JobControl(world.database, world.jobs, world.now)
    control.change(job, {"labels": {"team": "vision"}})
    give = world.tracking.set_labels

    def overtaken(run_id: str, labels: dict[str, str]) -> None:
        give(run_id, labels)
        world.moment += timedelta(seconds=1)
        monkeypatch.undo()
        control.change(job, {"labels": {"team": "speech"}})

    monkeypatch.setattr(world.tracking, "set_labels", overtaken)
    world.round()
    assert world.tracking.labels[f"run-{job}"] == {"team": "vision"}
    world.round()
    assert world.tracking.labels[f"run-{job}"] == {"team": "speech"}
    # Nothing is written again.
    world.tracking.labels.clear()
    world.round()
    assert world.tracking.labels == {}


def test_a_job_ends_without_mlflow_and_its_log_is_kept_later(world: World) -> None:
    job, submission = started(world)
    world.tracking.reachable = False
    world.ends(submission, 0)
    world.round()
    assert world.job(job).state is JobState.SUCCEEDED
    assert world.tracking.logs == {}
    world.tracking.reachable = True
    world.tracking.metrics = {"train/loss": 1.0}
    world.round()
    assert (f"run-{job}", 1) in world.tracking.logs
    assert world.tracking.runs[f"run-{job}"] == "FINISHED"
    assert world.job(job).summary == {"train/loss": 1.0}


def test_a_retry_goes_on_from_the_ended_jobs_checkpoints(world: World) -> None:
    job, submission = started(world)
    world.ends(submission, FailureClass.DIVERGED.exit_code, "the loss is nan")
    world.round()
    retry = world.jobs.retry(job)
    world.round()
    argument = world.cluster.submitted[f"{retry.id}-1"].arguments[-1]
    assert Assignment.model_validate_json(argument).resume_from == (job,)
    assert retry.retry_of == job
    assert world.job(job).state is JobState.FAILED


def sweep(workers: int, concurrency: int, **changes: Any) -> dict[str, Any]:
    base = {"data": {"source": "digits"}, "resources": {"workers": workers}}
    return {
        "kind": "sweep",
        "base": base,
        "space": {"method.variance": {"choice": [1.0, 25.0]}},
        "concurrency": concurrency,
    } | changes


def trial(number: int, state: TrialState, objective: float | None) -> Trial:
    parameters = {"method.variance": float(number)}
    return Trial(number=number, state=state, parameters=parameters, objective=objective, epochs=4)


@pytest.mark.parametrize(
    ("workers", "concurrency", "granted"), [(2, 5, 2), (2, 1, 1), (1, 3, 3), (4, 9, 1)]
)
def test_a_sweep_runs_no_more_trials_than_it_asks_for_and_the_cluster_has(
    world: World, workers: int, concurrency: int, granted: int
) -> None:
    job = world.jobs.submit(sweep(workers, concurrency))[0].id
    world.round()
    submission = world.cluster.submitted[f"{job}-1"]
    assert submission.driver == Bundle(0, 0)
    assert Assignment.model_validate_json(submission.arguments[-1]).concurrency == granted
    # Its trials' resources are taken, whether or not they run already.
    free = 4 - workers * granted
    other = world.submit(resources={"workers": 4})
    world.round()
    assert world.job(other).state is JobState.QUEUED
    if free:
        world.jobs.cancel(other)
        fits = world.submit(resources={"workers": free})
        world.round()
        assert world.job(fits).state is JobState.STARTING


def test_the_trials_of_a_cancelled_sweep_are_closed_with_it(world: World) -> None:
    job = world.jobs.submit(sweep(1, 1))[0].id
    world.round()
    world.tracking.tried = {
        "a": trial(0, TrialState.STOPPED, 0.5),
        "b": trial(1, TrialState.RUNNING, None),
    }
    world.cluster.set(f"{job}-1", SubmissionState.RUNNING)
    world.round()
    world.jobs.cancel(job)
    world.cluster.set(f"{job}-1", SubmissionState.STOPPED)
    world.round()
    world.round()
    assert [each.state for each in world.tracking.tried.values()] == [
        TrialState.STOPPED,
        TrialState.CANCELLED,
    ]


def test_the_best_of_a_sweep_is_promoted_once(world: World) -> None:
    job = world.jobs.submit(sweep(1, 1, promote=True, name="search"))[0].id
    world.round()
    world.tracking.tried = {
        "a": trial(0, TrialState.STOPPED, 0.5),
        "b": trial(1, TrialState.SUCCEEDED, 0.75),
        "c": trial(2, TrialState.FAILED, None),
    }
    world.drives(job)
    world.round()
    world.ends(f"{job}-1", 0)
    world.tracking.reachable = False  # the sweep ends while MLflow is unreachable
    world.round()
    assert len(world.all_jobs()) == 1
    world.tracking.reachable = True
    for _ in range(3):
        world.round()
    promoted, ended = world.all_jobs()
    assert (ended.id, ended.state) == (job, JobState.SUCCEEDED)
    assert (promoted.promoted_from, promoted.name) == (job, "search-best")
    assert promoted.spec["method"]["variance"] == 1.0
    assert world.jobs.promote(job, None).id == promoted.id


def test_a_job_waits_for_its_moment(world: World) -> None:
    job = world.submit(start_after="2026-01-01T00:01:00Z")
    world.round(59)
    assert world.states(job) == ["waiting"]
    assert world.job(job).reason == "waits until 2026-01-01T00:01:00+00:00"
    world.round(1)
    assert world.states(job) == ["waiting", "queued", "starting"]


@pytest.mark.parametrize(
    ("condition", "exit_code", "ends"),
    [
        ("succeeded", 0, ["waiting", "queued", "starting"]),
        ("succeeded", 65, ["waiting", "cancelled"]),
        ("finished", 65, ["waiting", "queued", "starting"]),
    ],
)
def test_a_job_waits_for_others(
    world: World, condition: str, exit_code: int, ends: list[str]
) -> None:
    first, submission = started(world)
    second, other = started(world)
    job = world.submit(depends_on=[first, second], condition=condition)
    world.ends(submission, 0)
    world.round()
    assert world.states(job) == ["waiting"]
    world.ends(other, exit_code)
    world.round()
    assert world.states(job) == ends


def test_a_failure_cancels_all_that_stands_on_it(world: World) -> None:
    first, submission = started(world)
    second = world.submit(depends_on=[first])
    third = world.submit(depends_on=[second])
    cleanup = world.submit(depends_on=[third], condition="finished")
    world.ends(submission, 64, "no such file")
    for _ in range(3):
        world.round()
    assert world.job(second).reason == f"job {first}, which it waited for, is failed"
    assert world.job(third).reason == f"job {second}, which it waited for, is cancelled"
    assert world.job(cleanup).state is JobState.STARTING


def test_only_jobs_that_can_still_succeed_are_waited_for(world: World) -> None:
    job, submission = started(world)
    world.ends(submission, 64)
    world.round()
    for other, message in ((job, "cannot succeed"), ("nothing", "there is no job nothing")):
        with pytest.raises(InvalidSpec, match=message) as refusal:
            world.submit(depends_on=[other])
        assert refusal.value.faults[0].field == "depends_on[0]"
    assert world.job(world.submit(depends_on=[job], condition="finished")).depends_on == [job]


DEADLINE = {"deadline": "2026-01-01T00:01:00Z"}


def test_a_job_off_the_cluster_fails_at_its_deadline(world: World) -> None:
    running, _ = started(world, resources={"cpus_per_worker": 4})
    queued = world.submit(**DEADLINE)
    waiting = world.submit(depends_on=[running], **DEADLINE)
    world.round(59)
    assert world.job(queued).state is JobState.QUEUED
    world.round(1)
    for job in (queued, waiting):
        view = world.job(job)
        assert (view.state, view.failure) == (JobState.FAILED, "timeout")
        assert view.reason == "had not finished by its deadline, 2026-01-01T00:01:00+00:00"
    assert world.job(running).state is JobState.RUNNING
    with pytest.raises(InvalidSpec, match="is past"):
        world.submit(**DEADLINE)


def test_jobs_of_a_newer_version_are_not_in_the_way_of_other_deadlines(world: World) -> None:
    newer, ours = world.submit(**DEADLINE), world.submit(**DEADLINE)
    with world.database.write() as session:
        session.execute(update(Job).where(Job.id == newer).values(state="hibernating"))
    world.moment += timedelta(seconds=61)
    with world.database.read() as session:
        assert [job.id for job in JobRepository(session, world.now()).overdue(1)] == [ours]


def test_a_schedule_that_is_due_looks_at_no_disk(world: World) -> None:
    """The workers check what they read: a disk that hangs would stop the clock of all jobs."""
    folder = world.settings.data_root / "photos"
    folder.mkdir()
    (folder / "a.png").touch()
    schedules = ScheduleService(world.database, world.jobs, world.now)
    data = {"source": "image_folder", "path": "photos"}
    schedule = schedules.create(
        {"name": "often", "cron": "* * * * *", "job": {"kind": "pretrain", "data": data}}
    )
    shutil.rmtree(folder)
    world.round(60)
    (tick,) = schedules.ticks(schedule.id, 10, None).items
    assert tick.outcome == "created"


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        (DEADLINE, "had not finished by its deadline"),
        ({"max_runtime": 60}, "took longer than 60 s"),
    ],
)
def test_a_running_job_is_stopped_when_its_time_is_over(
    world: World, limit: dict[str, Any], reason: str
) -> None:
    job, submission = started(world, **limit)
    world.round(59)
    assert world.job(job).state is JobState.RUNNING
    world.round(2)
    world.round()
    assert (world.job(job).state, {*world.cluster.stops}) == (JobState.STOPPING, {submission})
    world.cluster.set(submission, SubmissionState.STOPPED)
    world.round()
    view = world.job(job)
    assert (view.state, view.failure) == (JobState.FAILED, "timeout")
    assert reason in str(view.reason)
    assert [attempt.outcome for attempt in view.attempts] == ["timeout"]
    assert world.states(job) == ["queued", "starting", "running", "stopping", "failed"]


def test_a_retry_has_the_time_that_the_first_had_not(world: World) -> None:
    job, submission = started(world, **DEADLINE)
    world.ends(submission, 64)
    world.round(120)
    again = world.jobs.retry(job)
    assert (again.deadline, again.spec["deadline"]) == (None, None)


def test_the_run_of_a_job_that_ends_between_attempts_is_closed(world: World) -> None:
    for end in (lambda job: world.jobs.cancel(job), lambda job: world.round(60)):
        deadline = (world.moment + timedelta(seconds=30)).isoformat()
        job, submission = started(world, deadline=deadline, retry={"max_attempts": 9})
        world.cluster.logs[submission] = "epoch 1\n"
        world.ends(submission, 67)
        world.round()
        assert world.states(job)[-1] == "queued"
        assert world.tracking.runs[f"run-{job}"] is None
        world.cluster.lose_everything()
        end(job)
        world.round()
        status = "KILLED" if world.states(job)[-1] == "cancelled" else "FAILED"
        assert world.tracking.runs[f"run-{job}"] == status
        assert world.tracking.logs[f"run-{job}", 1] == "epoch 1\n"


@pytest.mark.parametrize(
    ("limit", "changes"),
    [
        ({"max_jobs": 1}, {"evaluations": [{"protocol": {"name": "knn"}}]}),
        ({"max_priority": 3}, {"priority": 4}),
    ],
    ids=["over its owner's quota", "above its owner's priority"],
)
def test_a_sweep_whose_best_may_not_be_trained_is_closed_all_the_same(
    world: World, limit: dict[str, Any], changes: dict[str, Any]
) -> None:
    keys = KeyService(world.database, world.now)
    keys.create("root", Role.ADMIN)
    keys.create("alice", Role.USER, **limit)
    base = {"data": {"source": "digits"}} | changes
    request = {
        "kind": "sweep",
        "base": base,
        "space": {"method.variance": {"uniform": [1, 25]}},
        "promote": True,
    }
    job = world.jobs.submit(request, owner="alice")[0].id
    world.round()
    world.tracking.tried = {
        "trial": Trial(
            number=0, state=TrialState.SUCCEEDED, objective=0.5, epochs=1,
            parameters={"method.variance": 5.0},
        )
    }  # fmt: skip
    world.drives(job)
    world.round()
    world.ends(f"{job}-1", 0)
    world.round()
    assert world.tracking.runs[f"run-{job}"] == "FINISHED"
    assert [each.id for each in world.all_jobs()] == [job]


def test_a_schedule_that_cannot_be_read_is_shown_and_stops_no_other(world: World) -> None:
    schedules = ScheduleService(world.database, world.jobs, world.now)
    spec = {"name": "nightly", "cron": "* * * * *", "job": DIGITS}
    broken, sound = schedules.create(spec), schedules.create(spec)
    for stored in ('{"name": "old"}', "[]"):
        with world.database.write() as session:
            session.execute(
                text("UPDATE schedules SET spec = :spec WHERE id = :id"),
                {"spec": stored, "id": broken.id},
            )
        world.round(60)
        shown = {schedule.id: schedule for schedule in schedules.find(10, None).items}
        assert shown[broken.id].problem
        assert shown[sound.id].last_run is not None
    assert schedules.pause(broken.id).state.value == "paused"
    with pytest.raises(Conflict, match="is unreadable"):
        schedules.resume(broken.id)


def test_a_run_that_is_closed_late_ends_when_its_job_did(world: World) -> None:
    job, submission = started(world)
    world.tracking.reachable = False
    world.ends(submission, 0)
    world.round()
    ended = world.moment
    world.tracking.reachable = True
    world.round(3600)
    assert world.tracking.runs[f"run-{job}"] == "FINISHED"
    assert world.tracking.ended[f"run-{job}"] == ended
