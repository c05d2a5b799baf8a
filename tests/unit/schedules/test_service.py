"""Schedules submit jobs when they are due, on a clock that the test controls."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from vicreg_platform.database import Database
from vicreg_platform.errors import Conflict, Forbidden, InvalidSpec
from vicreg_platform.jobs.repository import JobFilter, JobRepository
from vicreg_platform.jobs.schemas import JobSchema
from vicreg_platform.jobs.service import JobService
from vicreg_platform.jobs.states import JobState
from vicreg_platform.keys.schemas import Role
from vicreg_platform.keys.service import KeyService
from vicreg_platform.schedules.schemas import ScheduleSchema, ScheduleState
from vicreg_platform.schedules.service import BATCH, ScheduleService

DIGITS: dict[str, Any] = {"kind": "pretrain", "data": {"source": "digits"}}
HOURLY = {
    "name": "hourly",
    "cron": "0 * * * *",
    "job": DIGITS,
}
START = datetime(2026, 1, 1, 0, 30, tzinfo=UTC)


class Clockwork:
    def __init__(self, folder: Path) -> None:
        self.moment = START
        self.database = Database(f"sqlite:///{folder}/db")
        self.database.migrate()
        self.jobs = JobService(self.database, folder, "http://mlflow", lambda: self.moment)
        self.schedules = ScheduleService(self.database, self.jobs, lambda: self.moment)

    def create(self, **changes: Any) -> str:
        return self.schedules.create(HOURLY | changes).id

    def pass_time(self, hours: float) -> None:
        """Time passes while a dispatcher is running."""
        end = self.moment + timedelta(hours=hours)
        while self.moment < end:
            self.moment = min(end, self.moment + timedelta(minutes=10))
            self.schedules.tick()

    def be_away(self, hours: float) -> None:
        """Time passes without a dispatcher."""
        self.moment += timedelta(hours=hours)
        self.schedules.tick()

    def made(self) -> list[JobSchema]:
        return self.jobs.find(JobFilter(), 100, None).items[::-1]

    def outcomes(self, schedule: str) -> list[tuple[int, str]]:
        ticks = self.schedules.ticks(schedule, 100, None).items[::-1]
        return [(tick.at.hour, tick.outcome.value) for tick in ticks]

    def end(self, job: JobSchema) -> None:
        with self.database.write() as session:
            jobs = JobRepository(session, self.moment)
            for state in (JobState.STARTING, JobState.RUNNING, JobState.SUCCEEDED):
                jobs.transition(job.id, state, message=None)

    def get(self, schedule: str, preview: int = 0) -> ScheduleSchema:
        return self.schedules.get(schedule, preview)


@pytest.fixture
def clockwork(tmp_path: Path) -> Clockwork:
    return Clockwork(tmp_path)


def test_a_job_is_made_at_each_time_and_knows_its_schedule(clockwork: Clockwork) -> None:
    job = DIGITS | {
        "name": "at {{ scheduled_time }}",
        "labels": {"due": "{{scheduled_time}}"},
        "evaluations": [{"protocol": {"name": "knn"}}],
    }
    schedule = clockwork.create(job=job, timezone="Europe/Paris", overlap="queue")
    clockwork.pass_time(0.4)
    assert clockwork.made() == []
    clockwork.pass_time(1.2)
    pretrainings = [job for job in clockwork.made() if job.kind == "pretrain"]
    assert [job.name for job in pretrainings] == [
        "at 2026-01-01T02:00:00+01:00",
        "at 2026-01-01T03:00:00+01:00",
    ]
    assert pretrainings[0].labels == {"due": "2026-01-01T02:00:00+01:00"}
    assert {job.schedule_id for job in clockwork.made()} == {schedule}
    view = clockwork.get(schedule, preview=2)
    assert (view.runs, view.state) == (2, ScheduleState.ACTIVE)
    assert view.next == datetime(2026, 1, 1, 3, tzinfo=UTC)
    assert [at.hour for at in view.preview] == [3, 4]
    assert view.last_run is not None
    assert (view.last_run.job_id, view.last_run.job_state) == (pretrainings[1].id, "waiting")


def test_overlap_skip_makes_none_while_the_last_one_has_not_ended(clockwork: Clockwork) -> None:
    schedule = clockwork.create()
    clockwork.pass_time(2)
    (first,) = clockwork.made()
    clockwork.end(first)
    clockwork.pass_time(1)
    assert clockwork.outcomes(schedule) == [(1, "created"), (2, "skipped"), (3, "created")]
    assert clockwork.get(schedule).runs == 2
    skipped = clockwork.schedules.ticks(schedule, 2, None).items[1]
    assert skipped.reason == f"job {first.id} is unfinished"


def test_overlap_queue_has_the_next_one_wait(clockwork: Clockwork) -> None:
    clockwork.create(overlap="queue")
    clockwork.pass_time(2)
    first, second = clockwork.made()
    assert (first.state, second.state) == (JobState.QUEUED, JobState.WAITING)
    assert second.depends_on == [first.id]
    with clockwork.database.read() as session:
        assert JobRepository(session, clockwork.moment).ready(9) == []
    clockwork.end(first)
    with clockwork.database.read() as session:
        assert len(JobRepository(session, clockwork.moment).ready(9)) == 1


def test_overlap_cancel_ends_the_last_one(clockwork: Clockwork) -> None:
    schedule = clockwork.create(overlap="cancel")
    clockwork.pass_time(1)
    (first,) = clockwork.made()
    with clockwork.database.write() as session:
        JobRepository(session, clockwork.moment).transition(
            first.id, JobState.STARTING, message=None
        )
    clockwork.pass_time(1)
    first, second = clockwork.made()
    assert first.state is JobState.STOPPING
    assert first.reason == f"cancelled for the next job of schedule {schedule}"
    assert (second.state, second.depends_on) == (JobState.WAITING, [first.id])


def limit(clockwork: Clockwork, owner: str, **limits: Any) -> None:
    """Give an owner a new key, whose limits are theirs from now on."""
    keys = KeyService(clockwork.database, lambda: clockwork.moment)
    if not keys.any():
        keys.create("root", Role.ADMIN)
    clockwork.moment += timedelta(seconds=1)
    keys.create(owner, Role.USER, **limits)


def test_a_priority_above_the_owners_limit_is_refused_at_once_and_at_each_time(
    clockwork: Clockwork,
) -> None:
    urgent = HOURLY | {"job": DIGITS | {"priority": 5}}
    schedule = clockwork.schedules.create(urgent, owner="ann").id
    limit(clockwork, "ann", max_priority=3)
    clockwork.pass_time(2)
    assert clockwork.outcomes(schedule) == [(1, "refused"), (2, "refused")]
    assert clockwork.made() == []
    (tick, _) = clockwork.schedules.ticks(schedule, 2, None).items
    assert tick.reason == "priority 5 is above 3, the limit of the keys of ann"
    with pytest.raises(Forbidden, match="above 3"):
        clockwork.schedules.create(urgent, owner="ann")
    with pytest.raises(Forbidden, match="above 3"):
        clockwork.schedules.update(schedule, {"job": {"name": "still urgent"}})
    clockwork.schedules.update(schedule, {"job": {"priority": 3}})
    clockwork.pass_time(1)
    assert clockwork.outcomes(schedule)[-1] == (3, "created")


def test_overlap_cancel_under_a_quota_of_one_makes_room_for_itself_alone(
    clockwork: Clockwork,
) -> None:
    schedule = clockwork.schedules.create(HOURLY | {"overlap": "cancel"}, owner="ann").id
    limit(clockwork, "ann", max_jobs=1)
    clockwork.pass_time(1)
    (first,) = clockwork.made()
    with clockwork.database.write() as session:
        jobs = JobRepository(session, clockwork.moment)
        jobs.transition(first.id, JobState.STARTING, message=None)
    # Ann's other job takes the place: nothing is made, and nothing is cancelled for it.
    limit(clockwork, "ann", max_jobs=2)
    other, _ = clockwork.jobs.submit(DIGITS, owner="ann")
    limit(clockwork, "ann", max_jobs=1)
    clockwork.pass_time(1)
    assert clockwork.outcomes(schedule) == [(1, "created"), (2, "refused")]
    assert clockwork.jobs.get(first.id).state is JobState.STARTING
    clockwork.jobs.cancel(other.id)
    clockwork.pass_time(1)
    assert clockwork.outcomes(schedule)[-1] == (3, "created")
    assert clockwork.jobs.get(first.id).state is JobState.STOPPING


def test_a_schedule_of_another_version_is_changed_as_this_one_reads_it(
    clockwork: Clockwork,
) -> None:
    schedule = clockwork.create()
    with clockwork.database.write() as session:
        session.execute(
            text("UPDATE schedules SET spec = json_set(spec, '$.forgotten', 1), spec_version = 1")
        )
    assert clockwork.schedules.update(schedule, {"name": "daily"}).name == "daily"


@pytest.mark.parametrize("name", ["{{" + " " * 130_000, "{{ " * 40_000, "{{" + "a" * 130_000])
def test_a_name_of_braces_and_blanks_takes_no_time(clockwork: Clockwork, name: str) -> None:
    started = time.process_time()
    with suppress(InvalidSpec):  # blanks are stripped from a name
        clockwork.create(job=DIGITS | {"name": name})
    assert time.process_time() - started < 2  # it was minutes


def test_a_long_queue_takes_as_many_dependencies_as_it_has_jobs(clockwork: Clockwork) -> None:
    evaluated = DIGITS | {"evaluations": [{"protocol": {"name": "knn"}}]}
    clockwork.create(overlap="queue", job=evaluated)
    clockwork.pass_time(40)
    with clockwork.database.read() as session:
        count = session.scalar(text("SELECT count(*) FROM dependencies"))
    assert count == 40 + 39 * 2  # each evaluation on its training, each job on the two before it


def test_a_job_cancelled_in_the_queue_lets_none_overtake(clockwork: Clockwork) -> None:
    clockwork.create(overlap="queue")
    clockwork.pass_time(5)
    first, second, third, fourth, fifth = clockwork.made()
    clockwork.jobs.cancel(third.id)
    clockwork.jobs.cancel(second.id)
    waits = {job.id: job.depends_on for job in clockwork.made()}
    assert first.id in waits[fourth.id]
    assert waits[fifth.id] == [fourth.id]
    with clockwork.database.read() as session:
        jobs = JobRepository(session, clockwork.moment)
        assert jobs.ready(10) == []
    clockwork.end(first)
    with clockwork.database.read() as session:
        jobs = JobRepository(session, clockwork.moment)
        assert [job.id for job in jobs.ready(10)] == [fourth.id]


def test_many_schedules_that_cannot_be_read_keep_none_from_its_turn(clockwork: Clockwork) -> None:
    for _ in range(BATCH + 1):
        clockwork.create(cron="*/30 * * * *")
    with clockwork.database.write() as session:
        session.execute(text("UPDATE schedules SET spec = '{}'"))
    sound = clockwork.create(overlap="queue")
    clockwork.pass_time(1)
    assert clockwork.outcomes(sound) == [(1, "created")]


@pytest.mark.parametrize(
    ("policy", "outcomes"),
    [
        ({"catch_up": "none"}, [(5, "missed")]),
        ({"catch_up": "last"}, [(5, "created")]),
        ({"catch_up": "all"}, [(hour, "created") for hour in (1, 2, 3, 4, 5)]),
        ({"catch_up": "all", "catch_up_limit": 2}, [(4, "created"), (5, "created")]),
    ],
)
def test_what_was_missed_is_made_up_for(
    clockwork: Clockwork, policy: dict[str, Any], outcomes: list[tuple[int, str]]
) -> None:
    schedule = clockwork.create(overlap="queue", **policy)
    clockwork.be_away(5.2)
    assert clockwork.outcomes(schedule) == outcomes
    clockwork.schedules.tick()
    assert clockwork.outcomes(schedule) == outcomes
    clockwork.pass_time(1)
    assert clockwork.outcomes(schedule)[-1][0] == 6
    assert clockwork.get(schedule).next == datetime(2026, 1, 1, 7, tzinfo=UTC)


def test_what_is_after_its_end_is_not_made_up_for(clockwork: Clockwork) -> None:
    end = {"ends_at": "2026-01-01T02:00:00Z"}
    last = clockwork.create(overlap="queue", **end)
    every = clockwork.create(overlap="queue", catch_up="all", catch_up_limit=2, **end)
    clockwork.be_away(5.2)
    assert clockwork.outcomes(last) == [(2, "created")]
    assert clockwork.outcomes(every) == [(1, "created"), (2, "created")]
    assert clockwork.get(last).state is ScheduleState.ENDED


def test_jitter_delays_each_job_by_chance_within_its_bound(clockwork: Clockwork) -> None:
    clockwork.create(jitter=600, overlap="queue")
    clockwork.pass_time(40)
    delays = [
        (job.start_after - job.start_after.replace(minute=0, second=0, microsecond=0))
        for job in clockwork.made()
        if job.start_after is not None
    ]
    seconds = [delay.total_seconds() for delay in delays]
    assert len(seconds) == 40
    assert all(0 <= each < 600 for each in seconds)
    assert min(seconds) < 150 < 450 < max(seconds)


def test_a_schedule_ends(clockwork: Clockwork) -> None:
    counted = clockwork.create(max_runs=2, overlap="queue")
    dated = clockwork.create(ends_at="2026-01-01T03:00:00Z", overlap="queue")
    assert [at.hour for at in clockwork.get(counted, 5).preview] == [1, 2]
    assert [at.hour for at in clockwork.get(dated, 5).preview] == [1, 2, 3]
    clockwork.pass_time(6)
    assert Counter(job.schedule_id for job in clockwork.made()) == {counted: 2, dated: 3}
    for schedule in (counted, dated):
        view = clockwork.get(schedule)
        assert (view.state, view.next) == (ScheduleState.ENDED, None)
    assert clockwork.schedules.update(counted, {"max_runs": None}).state is ScheduleState.ACTIVE


def test_a_paused_schedule_makes_none_and_makes_up_for_none(clockwork: Clockwork) -> None:
    schedule = clockwork.create(catch_up="all")
    assert clockwork.schedules.pause(schedule).state is ScheduleState.PAUSED
    clockwork.pass_time(3)
    assert clockwork.made() == []
    assert clockwork.schedules.resume(schedule).next == datetime(2026, 1, 1, 4, tzinfo=UTC)
    clockwork.schedules.tick()
    assert clockwork.made() == []


def test_run_now_makes_a_job_besides(clockwork: Clockwork) -> None:
    schedule = clockwork.create()
    job = clockwork.schedules.run_now(schedule)
    assert job.schedule_id == schedule
    view = clockwork.get(schedule)
    assert (view.runs, view.next) == (0, datetime(2026, 1, 1, 1, tzinfo=UTC))
    clockwork.moment += timedelta(seconds=1)
    with pytest.raises(Conflict, match=f"job {job.id} is unfinished"):
        clockwork.schedules.run_now(schedule)
    assert clockwork.outcomes(schedule) == [(0, "created")]


def test_a_change_counts_from_the_next_time(clockwork: Clockwork) -> None:
    schedule = clockwork.create()
    view = clockwork.schedules.update(
        schedule, {"cron": "15 * * * *", "job": {"training": {"epochs": 3}}}
    )
    assert view.next == datetime(2026, 1, 1, 1, 15, tzinfo=UTC)
    clockwork.pass_time(1)
    assert clockwork.made()[0].spec["training"]["epochs"] == 3


def test_a_job_that_is_no_longer_valid_is_told_and_holds_up_nothing(clockwork: Clockwork) -> None:
    other = clockwork.jobs.submit(DIGITS)[0]
    job = DIGITS | {"depends_on": [other.id]}
    schedule = clockwork.create(job=job)
    clockwork.jobs.cancel(other.id)
    clockwork.pass_time(2)
    ticks = clockwork.schedules.ticks(schedule, 9, None).items
    assert [tick.outcome for tick in ticks] == ["refused", "refused"]
    assert "it cannot succeed" in str(ticks[0].reason)


def test_a_deleted_schedule_leaves_its_jobs(clockwork: Clockwork) -> None:
    schedule = clockwork.create()
    clockwork.pass_time(1)
    clockwork.schedules.delete(schedule)
    (job,) = clockwork.made()
    assert (job.state, job.schedule_id) == (JobState.QUEUED, schedule)


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"cron": "at noon"}, "cron", "five fields"),
        ({"timezone": "Mars/Olympus"}, "timezone", "not an IANA time zone"),
        ({"overlaps": "skip"}, "overlaps", "did you mean 'overlap'"),
        ({"job": {"kind": "pretrain"}}, "job.data", "required"),
        (
            {"job": DIGITS | {"deadline": "2027-01-01T00:00:00Z"}},
            "job.deadline",
            "every job",
        ),
        ({"job": DIGITS | {"name": "{{ today }}"}}, "job", "{{ today }}"),
        ({"ends_at": "2026-02-01"}, "ends_at", "time"),
    ],
)
def test_a_faulty_schedule_is_refused(
    clockwork: Clockwork, changes: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        clockwork.create(**changes)
    (fault,) = refusal.value.faults
    assert fault.field == field
    assert message in fault.message
