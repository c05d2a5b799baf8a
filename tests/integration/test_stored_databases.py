"""Databases of earlier versions are migrated, and their jobs continue."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.fakes import FakeCluster, FakeTracking
from tests.stored import STORED, VERSIONS
from vicreg_platform.cluster import SubmissionState
from vicreg_platform.database import Database
from vicreg_platform.dispatch.loop import Dispatcher
from vicreg_platform.jobs.repository import JobFilter, JobRepository
from vicreg_platform.jobs.service import JobService
from vicreg_platform.jobs.states import JobState
from vicreg_platform.keys.service import KeyService
from vicreg_platform.schedules.service import ScheduleService
from vicreg_platform.settings import Settings

NOW = datetime(2026, 1, 1, 0, 10, tzinfo=UTC)


@pytest.fixture(params=VERSIONS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    file = tmp_path / "platform.db"
    with sqlite3.connect(file) as connection:
        connection.executescript((STORED / request.param / "database.sql").read_text())
    database = Database(f"sqlite:///{file}")
    database.migrate()
    return database


def test_its_rows_are_all_there(database: Database, tmp_path: Path) -> None:
    jobs = JobService(database, tmp_path, "http://mlflow", lambda: NOW)
    found = {job.name: job for job in jobs.find(JobFilter(), 100, None).items}
    states = {name: job.state.value for name, job in found.items()}
    assert states.pop("paused", "paused") == "paused"  # 0.2.0 could not pause
    assert states == {
        "done": "succeeded", "done-knn": "starting", "failed": "failed", "search": "starting",
        "between": "queued", "queued": "queued",
    }  # fmt: skip
    assert found["done"].summary == {"train/loss": 3.0}
    assert [event.after for event in jobs.events(found["failed"].id, 10, None).items][
        -1
    ] == "failed"
    (schedule,) = ScheduleService(database, jobs, lambda: NOW).find(10, None).items
    assert (schedule.name, schedule.problem) == ("nightly", None)
    assert KeyService(database, lambda: NOW).any_administrator()


def test_what_unfinished_jobs_need_is_in_columns_or_read(database: Database) -> None:
    with database.read() as session:
        rows = {job.name: job for job in JobRepository(session, NOW).find(JobFilter(), 100, None)}
    assert rows["queued"].workers == 4
    for name, cpus in {"queued": 4, "between": 1, "search": 2, "done-knn": 1}.items():
        needs = rows[name].needs
        assert needs is not None
        assert needs.cpus == cpus


def test_its_jobs_are_gone_on_with(database: Database, tmp_path: Path) -> None:
    settings = Settings(
        database_url="", ray_url="", mlflow_url="http://mlflow", storage=str(tmp_path),
        data_root=tmp_path,
    )  # fmt: skip
    cluster, tracking = FakeCluster(), FakeTracking()
    dispatcher = Dispatcher(database, cluster, tracking, settings, lambda: NOW)
    jobs = JobService(database, tmp_path, "http://mlflow", lambda: NOW)
    found = {job.name: job.id for job in jobs.find(JobFilter(), 100, None).items}
    for name in ("done-knn", "search"):
        cluster.set(f"{found[name]}-1", SubmissionState.RUNNING)
        tracking.runs[f"run-{found[name]}"] = None
    tracking.runs[f"run-{found['done']}"] = "FINISHED"
    dispatcher.round()
    assert jobs.get(found["search"]).state is JobState.RUNNING
    cluster.set(f"{found['search']}-1", SubmissionState.SUCCEEDED)
    cluster.set(f"{found['done-knn']}-1", SubmissionState.SUCCEEDED)
    dispatcher.round()
    assert tracking.runs[f"run-{found['search']}"] == "FINISHED"
    # Runs that the version before has closed are left alone.
    assert tracking.runs[f"run-{found['done']}"] == "FINISHED"
    assert f"run-{found['failed']}" not in tracking.runs
    assert f"{found['queued']}-1" in cluster.submitted
