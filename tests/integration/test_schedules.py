"""Schedules over HTTP, and run by real dispatchers on PostgreSQL that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import Connection, text

from tests.databases import empty_database
from tests.integration.conftest import wait_until
from tests.integration.test_api import Platform, platform  # noqa: F401
from vicreg_platform.cli.commands import main
from vicreg_platform.database import Database
from vicreg_platform.dispatch.lease import LEASE_SECONDS
from vicreg_platform.jobs.service import JobService
from vicreg_platform.schedules.service import ScheduleService

DIGITS: dict[str, Any] = {"kind": "pretrain", "data": {"source": "digits"}}
MISSED = 40


def test_a_schedule_is_made_changed_run_and_removed(platform: Platform) -> None:  # noqa: F811
    body = {"name": "nightly", "cron": "30 2 * * *", "timezone": "Europe/Paris", "job": DIGITS}
    answer = platform.http.post("/v1/schedules", json=body)
    assert answer.status_code == 201
    schedule = answer.json()
    path = answer.headers["location"]
    assert path == f"/v1/schedules/{schedule['id']}"
    assert (schedule["state"], schedule["spec"]["overlap"]) == ("active", "skip")

    preview = platform.http.get(path, params={"preview": 5}).json()["preview"]
    assert len(preview) == 5
    assert preview[0] == schedule["next"]
    assert preview == sorted(preview)

    changed = platform.http.patch(path, json={"cron": "0 4 * * *", "max_runs": 3}).json()
    assert (changed["spec"]["cron"], changed["spec"]["max_runs"]) == ("0 4 * * *", 3)
    assert changed["spec"]["timezone"] == "Europe/Paris"
    assert platform.http.patch(path, json={"cron": "soon"}).json()["errors"][0]["field"] == "cron"
    assert platform.http.patch(path, json=[]).status_code == 422

    assert platform.http.post(f"{path}/pause").json()["next"] is None
    assert platform.http.post(f"{path}/resume").json()["state"] == "active"

    job = platform.http.post(f"{path}/run-now")
    assert (job.status_code, job.json()["schedule_id"]) == (201, schedule["id"])
    again = platform.http.post(f"{path}/run-now")
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    jobs = platform.http.get("/v1/jobs", params={"schedule": schedule["id"]}).json()["items"]
    assert [each["id"] for each in jobs] == [job.json()["id"]]
    (tick,) = platform.http.get(f"{path}/ticks").json()["items"]
    assert (tick["outcome"], tick["job_state"]) == ("created", "queued")

    assert platform.http.get(f"{path}/ticks", params={"cursor": tick["at"]}).json()["items"] == []
    assert platform.http.get(f"{path}/ticks", params={"cursor": "2026-01-01"}).status_code == 422
    assert platform.http.get(f"{path}/ticks", params={"cursor": "soon"}).status_code == 422

    (listed,) = platform.http.get("/v1/schedules").json()["items"]
    assert listed["last_run"]["job_id"] == job.json()["id"]
    assert platform.http.delete(path).status_code == 204
    assert platform.http.get(path).json()["code"] == "not_found"
    assert platform.http.get(f"/v1/jobs/{jobs[0]['id']}").status_code == 200


def test_the_command_line_shows_next_and_last_runs(
    platform: Platform,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("VICREG_API_URL", str(platform.http.base_url))
    file = tmp_path / "nightly.yaml"
    file.write_text(yaml.safe_dump({"name": "nightly", "cron": "30 2 * * *", "job": DIGITS}))

    def vicreg(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["vicreg", "schedules", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code in (0, None)
        return capfd.readouterr().out.strip()

    schedule = vicreg("create", str(file))
    job = vicreg("run-now", schedule)
    for words in (vicreg(), vicreg("show", schedule)):
        assert all(word in words for word in ("nightly", "active", "02:30:00", job, "queued"))
    assert vicreg("pause", schedule) == "paused"
    assert vicreg("resume", schedule) == "active"
    vicreg("delete", schedule)
    assert "nightly" not in vicreg()


class Dispatchers:
    """Real dispatcher processes on one PostgreSQL; without Ray, so that jobs stay queued."""

    def __init__(self, url: str, folder: Path) -> None:
        self._folder = folder
        self._environment = os.environ | {
            "VICREG_DATABASE_URL": url,
            "VICREG_RAY_URL": "http://127.0.0.1:9",
            "VICREG_MLFLOW_URL": "http://127.0.0.1:9",
            "VICREG_DATA_ROOT": str(folder),
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        with (self._folder / "dispatcher.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "vicreg_platform.dispatcher"],
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def postgres(postgres_url: str) -> str:
    return empty_database(postgres_url)


@pytest.fixture
def dispatchers(postgres: str, tmp_path: Path) -> Iterator[Dispatchers]:
    started = Dispatchers(postgres, tmp_path)
    yield started
    started.end()


def overdue_schedule(url: str, folder: Path, minutes: int) -> Database:
    """A schedule for every minute that has missed the last ``minutes`` times."""
    database = Database(url)
    database.migrate()
    service = ScheduleService(database, JobService(database, folder, ""))
    service.create(
        {
            "name": "every minute",
            "cron": "* * * * *",
            "job": DIGITS,
            "overlap": "queue",
            "catch_up": "all",
            "catch_up_limit": 1000,
        }
    )
    first = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=minutes)
    with database.write() as session:
        session.execute(text("UPDATE schedules SET next_tick = :first"), {"first": first})
    return database


def counts(database: Database) -> tuple[int, int, int]:
    """The numbers of ticks, of jobs, and of jobs that a tick points to."""
    with database.read() as session:
        return tuple(
            session.scalar(text(query)) or 0
            for query in (
                "SELECT count(*) FROM ticks",
                "SELECT count(*) FROM jobs",
                "SELECT count(DISTINCT job_id) FROM ticks",
            )
        )  # type: ignore[return-value]


def held_up(connection: Connection) -> int:
    """How many transactions on this database wait for another."""
    connection.execute(text("SELECT pg_stat_clear_snapshot()"))
    return len(
        list(
            connection.scalars(
                text(
                    "SELECT pid FROM pg_stat_activity "
                    "WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
            )
        )
    )


def free_lease(database: Database) -> None:
    """Let another dispatcher work beside the one that holds the lease."""
    with database.write() as session:
        session.execute(text("DELETE FROM leases"))


def test_a_dispatcher_killed_between_claim_and_job_leaves_the_tick_to_another(
    postgres: str, dispatchers: Dispatchers, tmp_path: Path
) -> None:
    """Fails without: claim and job in one transaction (the tick would be lost)."""
    database = overdue_schedule(postgres, tmp_path, minutes=0)
    with database.engine.connect() as blocker:
        with blocker.begin():
            # The claim is made, the job cannot be.
            blocker.execute(text("LOCK TABLE jobs IN SHARE MODE"))
            first = dispatchers.start()
            wait_until(lambda: held_up(blocker))
            assert blocker.scalar(text("SELECT count(*) FROM ticks")) == 0  # not committed
            first.send_signal(signal.SIGKILL)
            first.wait()
        ticks, jobs, _ = counts(database)
        assert ticks == jobs  # nothing, or all of it: never a tick without its job
    dispatchers.start()
    wait_until(lambda: counts(database)[0] >= 1, LEASE_SECONDS + 60)
    ticks, jobs, known = counts(database)
    assert ticks == jobs == known


def test_each_tick_makes_one_job_across_two_dispatchers_and_kills(
    postgres: str, dispatchers: Dispatchers, tmp_path: Path
) -> None:
    """Fails without: the lock on the schedule's row together with the unique (schedule, tick)."""
    database = overdue_schedule(postgres, tmp_path, minutes=MISSED)
    with database.engine.connect() as blocker, blocker.begin():
        blocker.execute(text("LOCK TABLE jobs IN SHARE MODE"))
        dispatchers.start()
        wait_until(lambda: held_up(blocker) == 1)
        free_lease(database)
        dispatchers.start()
        wait_until(lambda: held_up(blocker) == 2)  # both are at the same tick
    for enough in (5, 15, 25):
        wait_until(lambda enough=enough: counts(database)[0] >= enough)  # type: ignore[misc]
        dispatchers.processes[-1].send_signal(signal.SIGKILL)
        free_lease(database)
        dispatchers.start()
    wait_until(lambda: counts(database)[0] > MISSED)
    dispatchers.end()
    ticks, jobs, known = counts(database)
    assert ticks == jobs == known
    with database.read() as session:
        assert session.scalar(text("SELECT runs FROM schedules")) == ticks
