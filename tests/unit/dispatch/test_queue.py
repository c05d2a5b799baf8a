"""Making room, pausing and resizing, on a cluster and a clock that the test controls."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.unit.dispatch.test_loop import World, started, world  # noqa: F401
from vicreg_platform.cluster import SubmissionState
from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.contract.failure_class import FailureClass
from vicreg_platform.contract.progress import Progress
from vicreg_platform.dispatch.service import QueueService
from vicreg_platform.errors import Forbidden, IllegalTransition, InvalidSpec, PreconditionFailed
from vicreg_platform.jobs.control import JobControl
from vicreg_platform.jobs.schemas import ExtensionSchedule
from vicreg_platform.jobs.states import JobState
from vicreg_platform.keys.schemas import Role
from vicreg_platform.keys.service import KeyService
from vicreg_platform.needs import Bundle

TEN_MINUTES = 600.0
STOPPED = FailureClass.INFRASTRUCTURE.exit_code
ELASTIC = {"resources": {"workers": {"min": 1, "max": 4}}}


@pytest.fixture
def control(world: World) -> JobControl:  # noqa: F811
    return JobControl(world.database, world.jobs, world.now)


def stops(world: World, job: str, attempt: int = 1) -> None:  # noqa: F811
    """The driver of an attempt has saved its state, and exits."""
    assert world.cluster.stops[-1] == f"{job}-{attempt}"
    world.ends(f"{job}-{attempt}", STOPPED, "asked to stop: the state after step 7 is saved")


def assignment(world: World, submission: str) -> Assignment:  # noqa: F811
    return Assignment.model_validate_json(world.cluster.submitted[submission].arguments[-1])


def preempted(world: World, **victim: Any) -> tuple[str, str]:  # noqa: F811
    """A job that fills the cluster, told to make room for an urgent one; and that one."""
    world.cluster.nodes = (Bundle(2, 0),)
    job, _ = started(world, **{"resources": {"workers": 2}} | victim)
    world.round(after_seconds=TEN_MINUTES)
    urgent = world.submit(priority=5)
    world.round()
    return job, urgent


def test_an_urgent_job_takes_the_place_of_another_which_goes_on_later(world: World) -> None:  # noqa: F811
    job, urgent = preempted(world)
    assert world.job(job).state is JobState.STOPPING
    assert world.job(job).reason == f"makes room for job {urgent}"
    assert world.job(urgent).reason == f"waits until job {job} has stopped: it needs 1 CPU"
    world.round()
    stops(world, job)
    world.round()
    assert world.job(urgent).state is JobState.STARTING
    waiting = world.job(job)
    assert (waiting.state, waiting.made_room_for) == (JobState.QUEUED, urgent)
    assert waiting.reason == (f"made room for job {urgent}, and waits for room: it needs 2 × 1 CPU")
    assert [attempt.outcome for attempt in waiting.attempts] == ["preempted"]
    world.ends(f"{urgent}-1", 0)
    world.round()
    again = world.job(job)
    assert (again.state, again.made_room_for) == (JobState.STARTING, None)
    assert world.states(job) == [
        "queued", "starting", "running", "stopping", "queued", "starting",
    ]  # fmt: skip


def test_an_evaluation_of_several_workers_waits_until_there_is_room_for_all(world: World) -> None:  # noqa: F811
    world.cluster.nodes = (Bundle(2, 0), Bundle(2, 0))
    other, _ = started(world)
    digits = {"source": "digits"}
    waiting = world.jobs.submit(
        {
            "kind": "evaluate",
            "encoder": {"untrained": {"name": "resnet18"}},
            "protocol": {"name": "knn"},
            "data": {"train": digits, "test": digits | {"split": "test"}},
            "resources": {"workers": 2, "cpus": 2},
        }
    )[0].id
    world.round()
    assert world.job(waiting).state is JobState.QUEUED
    assert "2 × 2 CPUs" in str(world.job(waiting).reason)
    world.ends(f"{other}-1", 0)
    world.round()
    assert world.job(waiting).state is JobState.STARTING
    assert world.cluster.submitted[f"{waiting}-1"].driver == Bundle(0, 0)
    assert assignment(world, f"{waiting}-1").worker_count == 2
    shown = world.jobs.get(waiting)
    assert (shown.workers, shown.attempts[0].workers) == (2, 2)


def test_who_has_just_saved_goes_first_and_says_when_the_other_ends(world: World) -> None:  # noqa: F811
    world.cluster.nodes = (Bundle(2, 0),)
    saved, _ = started(world)
    other, _ = started(world)
    world.moment += timedelta(seconds=TEN_MINUTES)
    for job, seconds in ((saved, 10), (other, 500)):
        world.tracking.progress[f"run-{job}"] = Progress(
            epoch=1, epochs=4, step=11, steps=44, images_per_second=1.0, eta_seconds=900.0,
            saved_at=world.now() - timedelta(seconds=seconds),
        )  # fmt: skip
    world.round()
    assert world.job(saved).progress == world.tracking.progress[f"run-{saved}"]
    world.submit(priority=5)
    waiting = world.submit()
    world.round()
    assert world.job(saved).state is JobState.STOPPING
    assert world.job(other).state is JobState.RUNNING
    queue = QueueService(world.database, world.settings, world.now).queue(10)
    assert {holder.job_id: holder.ends for holder in queue.holders}[other] == (
        world.now() + timedelta(seconds=900)
    )
    (entry,) = [entry for entry in queue.items if entry.job_id == waiting]
    assert entry.basis == "progress"
    assert entry.start == world.now() + timedelta(seconds=900)


def test_making_room_is_no_failure_however_often(world: World) -> None:  # noqa: F811
    world.cluster.nodes = (Bundle(1, 0),)
    job, _ = started(world, retry={"max_attempts": 1})
    for number in (1, 2, 3):
        world.round(after_seconds=TEN_MINUTES)
        urgent = world.submit(priority=5)
        world.round()
        world.round()
        stops(world, job, number)
        world.round()
        world.ends(f"{urgent}-1", 0)
        world.round()
        world.drives(job, number + 1)
        world.round()
        assert world.job(job).state is JobState.RUNNING
    world.ends(f"{job}-4", 137)
    world.round()
    assert world.job(job).state is JobState.FAILED  # its one attempt


@pytest.mark.parametrize(
    ("victim", "after"),
    [({"preemptible": False}, TEN_MINUTES), ({"priority": 5}, TEN_MINUTES), ({}, TEN_MINUTES - 5)],
)
def test_who_is_not_disturbed(world: World, victim: dict[str, Any], after: float) -> None:  # noqa: F811
    world.cluster.nodes = (Bundle(1, 0),)
    job, _ = started(world, **victim)
    world.submit(priority=5)
    world.round(after_seconds=after)
    world.round()
    assert world.job(job).state is JobState.RUNNING


def test_a_victim_that_ends_by_itself_has_succeeded(world: World) -> None:  # noqa: F811
    job, urgent = preempted(world)
    world.ends(f"{job}-1", 0)
    world.round()
    assert world.job(job).state is JobState.SUCCEEDED
    assert world.job(urgent).state is JobState.STARTING


def test_a_victim_can_be_cancelled_and_paused(world: World, control: JobControl) -> None:  # noqa: F811
    job, _ = preempted(world)
    control.pause(job)
    assert world.job(job).state is JobState.STOPPING
    world.jobs.cancel(job)
    world.ends(f"{job}-1", STOPPED)
    world.round()
    assert world.job(job).state is JobState.CANCELLED


def test_a_dispatcher_that_dies_between_the_stop_and_the_requeue_loses_nothing(
    world: World,  # noqa: F811
) -> None:
    job, urgent = preempted(world)
    world.dispatcher = world.new_dispatcher()
    world.round(after_seconds=60)
    stops(world, job)
    world.dispatcher = world.new_dispatcher()
    world.round(after_seconds=60)
    world.round(after_seconds=1)
    assert world.job(job).state is JobState.QUEUED
    assert len(world.job(job).attempts) == 1
    assert world.job(urgent).state is JobState.STARTING


def test_a_paused_job_frees_its_room_and_goes_on_with_another_number_of_workers(
    world: World,  # noqa: F811
    control: JobControl,
) -> None:
    world.cluster.nodes = (Bundle(2, 0),)
    job, _ = started(world, resources={"workers": 2})
    other = world.submit()
    assert control.pause(job).state is JobState.STOPPING
    world.round()
    stops(world, job)
    world.round()
    assert world.job(job).state is JobState.PAUSED
    assert world.job(other).state is JobState.STARTING
    world.round(after_seconds=3600)
    assert world.job(job).state is JobState.PAUSED
    with pytest.raises(InvalidSpec, match="3 do not divide 256 images"):
        control.resume(job, 3)
    control.resume(job, 1)
    world.round()
    assert world.job(job).state is JobState.STARTING
    assert assignment(world, f"{job}-2").worker_count == 1
    assert [attempt.workers for attempt in world.job(job).attempts] == [2, 1]
    assert world.states(job)[3:] == ["stopping", "paused", "waiting", "queued", "starting"]


def test_a_job_that_waits_is_paused_at_once_and_those_behind_it_wait_on(
    world: World,  # noqa: F811
    control: JobControl,
) -> None:
    first = world.submit()
    second = world.submit(depends_on=[first])
    assert control.pause(first).state is JobState.PAUSED
    assert control.pause(first).state is JobState.PAUSED
    world.round()
    assert world.job(second).state is JobState.WAITING
    assert world.cluster.submitted == {}
    control.resume(first)
    world.round()
    assert world.job(first).state is JobState.STARTING


def test_who_resumes_before_the_job_has_stopped_has_it_go_on(
    world: World,  # noqa: F811
    control: JobControl,
) -> None:
    job, _ = started(world)
    control.pause(job)
    control.resume(job)
    world.round()
    stops(world, job)
    world.round()
    assert world.job(job).state is JobState.STARTING


def test_an_ended_job_is_not_paused_and_a_running_one_not_resumed(
    world: World,  # noqa: F811
    control: JobControl,
) -> None:
    job, submission = started(world)
    with pytest.raises(IllegalTransition, match="is running: only a paused one"):
        control.resume(job)
    world.ends(submission, 0)
    world.round()
    with pytest.raises(IllegalTransition, match="is succeeded"):
        control.pause(job)


def test_an_elastic_job_takes_what_there_is_shrinks_and_grows(world: World) -> None:  # noqa: F811
    world.cluster.nodes = (Bundle(4, 0),)
    job, _ = started(world, **ELASTIC)
    assert world.job(job).workers == 4
    world.round(after_seconds=TEN_MINUTES)
    urgent = world.submit(priority=5, resources={"workers": 2})
    world.round()
    assert world.job(job).reason == f"shrinks to 2 workers: makes room for job {urgent}"
    world.round()
    stops(world, job)
    world.round()
    assert world.job(urgent).state is JobState.STARTING
    assert (world.job(job).state, world.job(job).workers) == (JobState.STARTING, 2)
    world.drives(job, 2)
    world.ends(f"{urgent}-1", 0)
    world.round(after_seconds=TEN_MINUTES)  # the room is free from now on
    world.round(after_seconds=299)
    assert world.job(job).state is JobState.RUNNING
    world.round(after_seconds=1)
    assert world.job(job).reason == "grows to 4 workers"
    world.round()
    stops(world, job, 2)
    world.round()
    assert [attempt.workers for attempt in world.job(job).attempts] == [4, 2, 4]
    outcomes = [attempt.outcome for attempt in world.job(job).attempts]
    assert outcomes == ["resized", "resized", None]
    world.drives(job, 3)
    world.round(after_seconds=301)
    assert world.job(job).state is JobState.RUNNING


def test_an_evaluation_of_cpus_passes_a_large_job(world: World) -> None:  # noqa: F811
    world.cluster.nodes = (Bundle(4, 2),)
    gpu = {"workers": 2, "gpus_per_worker": 1}
    started(world, resources={"workers": 1, "gpus_per_worker": 1})
    large = world.submit(resources=gpu)
    small = world.submit()
    world.round()
    assert world.job(large).state is JobState.QUEUED
    assert world.job(small).state is JobState.STARTING


def test_the_strict_policy_lets_nobody_pass(world: World) -> None:  # noqa: F811
    world.settings = world.settings.model_copy(update={"queue_policy": "strict"})
    world.dispatcher = world.new_dispatcher()
    world.cluster.nodes = (Bundle(4, 2),)
    started(world, resources={"workers": 1, "gpus_per_worker": 1})
    large = world.submit(resources={"workers": 2, "gpus_per_worker": 1})
    small = world.submit()
    world.round()
    assert world.job(small).state is JobState.QUEUED
    assert world.job(small).reason == f"waits behind job {large}, the next to get room"


def test_owners_share_by_their_weights(world: World) -> None:  # noqa: F811
    """Fails without: the usage of ended attempts, of running ones, and the weights."""
    world.cluster.nodes = (Bundle(2, 0),)
    keys = KeyService(world.database, world.now)
    keys.create("root", Role.ADMIN)
    for name, weight in (("ann", None), ("bob", 1.0), ("cat", 2.0)):
        keys.create(name, Role.USER, weight=weight)
    spec = {"kind": "pretrain", "data": {"source": "digits"}}
    owners = {
        world.jobs.submit(spec, owner=name)[0].id: name
        for _ in range(30)
        for name in ("ann", "bob", "cat")
    }
    ended: list[str] = []
    for _ in range(20):
        world.round()
        live = [job for job in world.all_jobs() if job.state is JobState.STARTING]
        for job in live:
            ended.append(job.id)
            world.ends(f"{job.id}-1", 0)
        world.round(after_seconds=60)
    shares = {name: [owners[job] for job in ended].count(name) for name in ("ann", "bob", "cat")}
    assert shares["cat"] == pytest.approx(20, abs=4)
    assert shares["ann"] == pytest.approx(10, abs=4)
    assert shares["bob"] == pytest.approx(10, abs=4)


def test_the_queue_is_shown_as_the_scheduler_sees_it(world: World) -> None:  # noqa: F811
    service = QueueService(world.database, world.settings, world.now)
    assert service.queue(10).at is None
    world.cluster.nodes = (Bundle(2, 0),)
    running, _ = started(world, resources={"workers": 2}, max_runtime=3600)
    large = world.submit(resources={"workers": 2}, name="large")
    behind = world.submit()
    world.round()
    queue = service.queue(10)
    assert (queue.total, queue.policy) == (2, "backfill")
    assert [(entry.job_id, entry.position) for entry in queue.items] == [(large, 1), (behind, 2)]
    assert [holder.job_id for holder in queue.holders] == [running]
    first = queue.items[0]
    assert first.needs == "2 × 1 CPU"
    assert first.start is not None
    assert (first.start - world.now()).total_seconds() == pytest.approx(3600, abs=60)
    assert first.basis == "limit"
    assert queue.items[1].start is None  # nobody knows how long the one before it takes
    placed = service.placed(world.job(large)).queue
    assert placed is not None
    assert (placed.position, placed.start) == (1, first.start)
    request = {"kind": "pretrain", "data": {"source": "digits"}, "priority": 3}
    foreseen = service.foreseen(world.jobs.check(request), None)
    assert foreseen.queue is not None
    assert foreseen.queue.position == 1
    world.round(after_seconds=0)
    world.moment = world.moment.replace(hour=5)
    assert service.queue(10).at is None  # the dispatcher has not looked since


def test_a_job_is_changed_field_by_field(world: World, control: JobControl) -> None:  # noqa: F811
    world.cluster.nodes = (Bundle(1, 0),)
    started(world)
    first, second = world.submit(), world.submit()
    changed = control.change(second, {"priority": 7, "labels": {"team": "vision"}}, version=1)
    assert (changed.priority, changed.version, changed.labels) == (7, 2, {"team": "vision"})
    world.round()
    queue = QueueService(world.database, world.settings, world.now).queue(10)
    assert [entry.job_id for entry in queue.items] == [second, first]
    with pytest.raises(PreconditionFailed, match="its version is 2"):
        control.change(second, {"priority": 8}, version=1)
    with pytest.raises(InvalidSpec) as refused:
        control.change(second, {"training": {"epochs": 3}, "name": "x"})
    assert [fault.field for fault in refused.value.faults] == ["training", "name"]
    assert "priority, labels, preemptible, max_runtime and deadline can" in str(refused.value)
    with pytest.raises(InvalidSpec, match="priority"):
        control.change(second, {"priority": 10_000})
    assert world.job(second).version == 2
    control.change(second, {"max_runtime": 60, "preemptible": False})
    control.change(second, {"max_runtime": None})
    assert world.job(second).spec["max_runtime"] is None
    assert world.job(second).preemptible is False


def test_a_key_limits_the_priority(world: World, control: JobControl) -> None:  # noqa: F811
    keys = KeyService(world.database, world.now)
    keys.create("root", Role.ADMIN)
    keys.create("ann", Role.USER, max_priority=2)
    spec = {"kind": "pretrain", "data": {"source": "digits"}}
    with pytest.raises(Forbidden, match="priority 3 is above 2, the limit of the keys of ann"):
        world.jobs.submit(spec | {"priority": 3}, owner="ann")
    job, _ = world.jobs.submit(spec | {"priority": 2}, owner="ann")
    with pytest.raises(Forbidden):
        control.change(job.id, {"priority": 3}, caller="ann")
    assert control.change(job.id, {"priority": 3}, caller="root").priority == 3


def test_a_running_sweep_is_given_more_trials(world: World, control: JobControl) -> None:  # noqa: F811
    sweep = world.jobs.submit(
        {
            "kind": "sweep",
            "base": {"data": {"source": "digits"}},
            "space": {"optimizer.base_lr": {"uniform": [0.1, 1.0]}},
            "search": {"trials": 4},
        }
    )[0].id
    world.round()
    world.drives(sweep)
    world.round()
    with pytest.raises(InvalidSpec, match="must be 4 or more"):
        control.change(sweep, {"search": {"trials": 3}})
    control.change(sweep, {"search": {"trials": 9}, "concurrency": 2})
    world.round()
    stops(world, sweep)
    world.round()
    told = assignment(world, f"{sweep}-2")
    assert (told.spec.search.trials, told.concurrency) == (9, 2)  # type: ignore[union-attr]
    assert world.job(sweep).attempts[0].outcome == "resized"


def test_a_succeeded_sweep_is_given_more_trials(world: World, control: JobControl) -> None:  # noqa: F811
    request = {
        "kind": "sweep",
        "base": {"data": {"source": "digits"}},
        "space": {"optimizer.base_lr": {"uniform": [0.1, 1.0]}},
        "search": {"trials": 4, "seeds": 2},
    }
    sweep = world.jobs.submit(request)[0].id
    world.round()
    world.drives(sweep)
    world.round()
    with pytest.raises(IllegalTransition, match="is a running sweep: only a sweep that has succ"):
        control.add_trials(sweep, 9)
    world.ends(f"{sweep}-1", 0)
    world.round()
    with pytest.raises(InvalidSpec, match="must be more than 4"):
        control.add_trials(sweep, 4)
    grid = request | {
        "space": {"optimizer.base_lr": {"grid": [0.1, 0.2, 0.3]}},
        "search": {"algorithm": "grid"},
    }
    whole = world.jobs.submit(grid)[0].id
    world.round()
    world.drives(whole)
    world.ends(f"{whole}-1", 0)
    world.round()
    with pytest.raises(InvalidSpec, match="the whole grid has been tried"):
        control.add_trials(whole, 20)
    with pytest.raises(IllegalTransition, match="a succeeded sweep: only a pretraining"):
        control.extend(sweep, 9, ExtensionSchedule.ANNEAL)
    made = control.add_trials(sweep, 9).job
    assert (made.extends, made.parent, made.state) == (sweep, sweep, JobState.QUEUED)
    assert made.spec["extends"] == {"job": sweep, "trials": 4}
    assert made.spec["search"]["trials"] == 9
    world.round()
    told = assignment(world, f"{made.id}-1")
    assert told.extended_run_id == world.job(sweep).mlflow.run_id  # type: ignore[union-attr]
    world.cluster.set(f"{made.id}-1", SubmissionState.RUNNING)
    for changes, field in (
        ({"objective": {"metric": "train/loss", "mode": "min"}}, "objective"),
        ({"search": {"trials": 9, "seeds": 3}}, "search"),
        ({"extends": {"job": sweep, "trials": 5}}, "extends.trials"),
    ):
        with pytest.raises(InvalidSpec) as refused:
            world.jobs.submit(made.spec | changes)
        assert [fault.field for fault in refused.value.faults] == [field]


def test_a_succeeded_pretraining_is_extended(world: World, control: JobControl) -> None:  # noqa: F811
    job, submission = started(world, training={"epochs": 40}, name="short")
    with pytest.raises(IllegalTransition, match="running"):
        control.extend(job, 60, ExtensionSchedule.ANNEAL)
    world.ends(submission, 0)
    world.round()
    with pytest.raises(InvalidSpec, match="must be more than 40"):
        control.extend(job, 40, ExtensionSchedule.ANNEAL)
    extended = control.extend(job, 60, ExtensionSchedule.REWARM)
    assert "0.001 of its peak by epoch 40" in extended.warnings[0]
    made = extended.job
    assert (made.extends, made.parent, made.state) == (job, job, JobState.QUEUED)
    assert made.spec["extends"] == {"job": job, "epochs": 40, "schedule": "rewarm"}
    assert made.spec["training"]["warmup_epochs"] == 10
    world.round()
    told = assignment(world, f"{made.id}-1")
    assert told.resume_from == (job,)
    world.cluster.set(f"{made.id}-1", SubmissionState.RUNNING)
    with pytest.raises(InvalidSpec, match="backbone: must be as in job"):
        world.jobs.submit(made.spec | {"backbone": {"name": "resnet50"}})
