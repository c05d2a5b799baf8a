"""One suite for both databases: what holds on SQLite holds on PostgreSQL."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert, inspect, text
from sqlalchemy.exc import IntegrityError

from vicreg_platform.database import Base, Database
from vicreg_platform.errors import IllegalTransition, NotFound
from vicreg_platform.ids import new_id
from vicreg_platform.jobs.repository import JobFilter, JobRepository
from vicreg_platform.jobs.states import JobState
from vicreg_platform.jobs.tables import Job

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
_VALUES = "'pretrain', 'n', 'e', 0, '{}', '{}', 3, 'queued', '{}', '2026-01-01'"
OF_VERSION_0_2 = text(
    "INSERT INTO jobs (id, kind, name, experiment, priority, spec, request, max_attempts, state, "
    f"summary, created_at, depends_on) VALUES ('one', {_VALUES}, NULL), ('two', {_VALUES}, 'one')"
)
"""Two jobs, the second of which waits for the first."""


def add(database: Database, **fields: object) -> str:
    values: dict[str, object] = {
        "id": new_id(),
        "kind": "pretrain",
        "name": "n",
        "experiment": "e",
        "priority": 0,
        "spec": {},
        "request": {},
        "max_attempts": 3,
        "state": "queued",
        "summary": {},
        "created_at": NOW,
    }
    labels = fields.pop("labels", {})
    dependencies = fields.pop("dependencies", {})
    job = Job(**(values | fields))
    with database.write() as session:
        JobRepository(session, NOW).add(job, labels, "submitted", dependencies)  # type: ignore[arg-type]
    return job.id


def ids(
    database: Database, wanted: JobFilter, limit: int = 10, before: str | None = None
) -> list[str]:
    with database.read() as session:
        return [job.id for job in JobRepository(session, NOW).find(wanted, limit, before)]


def test_identifiers_sort_as_they_were_made() -> None:
    made = [new_id() for _ in range(1000)]
    assert made == sorted(made)


def test_the_migrations_make_the_tables_of_the_models(database: Database) -> None:
    inspector = inspect(database.engine)
    assert set(Base.metadata.tables) <= set(inspector.get_table_names())
    for name, table in Base.metadata.tables.items():
        columns = {column["name"]: column["nullable"] for column in inspector.get_columns(name)}
        ours = {column.name: column.nullable for column in table.columns}
        # What only processes of the version before use: this one leaves it null.
        theirs = {column: nullable for column, nullable in columns.items() if column not in ours}
        assert all(theirs.values())
        assert columns == ours | theirs
        indexes = {index["name"] for index in inspector.get_indexes(name)}
        assert {str(index.name) for index in table.indexes} <= indexes


def test_a_database_in_use_keeps_its_rows_when_it_is_migrated(database_url: str) -> None:
    database = Database(database_url)
    database._upgrade("0001")
    with database.write() as session:
        session.execute(OF_VERSION_0_2)
        session.execute(
            text(
                "INSERT INTO idempotency_keys (key, request_digest, answer, created_at) "
                "VALUES ('key', 'digest', :answer, '2026-01-01')"
            ),
            {"answer": '{"id": "two", "depends_on": "one"}'},
        )
        session.execute(
            text(
                "INSERT INTO events (job_id, at, after) VALUES ('one', '2026-01-01', 'queued'), "
                "('one', '2026-01-02', 'cancelled')"
            )
        )
    database.migrate()
    with database.read() as session:
        jobs = JobRepository(session, NOW)
        assert jobs.get("one").promoted_from is None
        assert [event.after for event in jobs.events("one", 10, 0)] == ["queued", "cancelled"]
        (dependency,) = jobs.get("two").dependencies
        assert (dependency.depends_on, dependency.condition) == ("one", "succeeded")
        assert jobs.get("one").dependencies == []
        assert jobs.answer_for("key").answer["depends_on"] == ["one"]  # type: ignore[union-attr]
    with database.write() as session, pytest.raises(IntegrityError):
        session.execute(text("DELETE FROM jobs"))  # its events still point to it
    database.dispose()


REVISIONS = [f"{number:04}" for number in range(2, 14)]


@pytest.mark.parametrize("revision", REVISIONS)
def test_processes_of_the_version_before_can_read_and_write(
    database_url: str, revision: str
) -> None:
    """A migration only adds: replicas are replaced one by one."""
    database = Database(database_url)
    database._upgrade(f"{int(revision) - 1:04}")
    before = columns_of(database)
    database._upgrade(revision)
    after = columns_of(database)
    for table, columns in before.items():
        assert columns.keys() <= after[table].keys()
        for name, column in after[table].items():
            if name in columns:
                assert str(column["type"]) == str(columns[name]["type"])
                assert column["nullable"] == columns[name]["nullable"]
            else:  # they do not write it
                assert column["nullable"] or column["default"] is not None
    database.dispose()


def columns_of(database: Database) -> dict[str, dict[str, Any]]:
    inspector = inspect(database.engine)
    return {
        table: {column["name"]: column for column in inspector.get_columns(table)}
        for table in inspector.get_table_names()
    }


def test_every_revision_is_tested_so(database: Database) -> None:
    with database.read() as session:
        head = session.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
    assert head == REVISIONS[-1]


def test_a_job_that_the_version_before_has_stored_waits(database: Database) -> None:
    if database.engine.dialect.name == "sqlite":
        pytest.skip("SQLite is one machine's: its processes are replaced together")
    with database.write() as session:
        session.execute(OF_VERSION_0_2)
    with database.read() as session:
        (dependency,) = JobRepository(session, NOW).get("two").dependencies
        assert (dependency.depends_on, dependency.condition) == ("one", "succeeded")


def test_several_processes_may_migrate_at_once(database_url: str) -> None:
    databases = [Database(database_url) for _ in range(3)]
    faults: list[BaseException] = []

    def migrate(each: Database) -> None:
        try:
            each.migrate()
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=migrate, args=(each,)) for each in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    for each in databases:
        each.dispose()


def test_moments_come_back_in_utc(database: Database) -> None:
    job = add(database)
    with database.read() as session:
        assert JobRepository(session, NOW).get(job).created_at == NOW


def test_a_job_that_is_not_there_is_not_found(database: Database) -> None:
    with database.read() as session, pytest.raises(NotFound):
        JobRepository(session, NOW).get("nothing")


def test_jobs_are_found_newest_first_page_by_page(database: Database) -> None:
    added = [add(database, id=f"{number:04}") for number in range(25)]
    pages, before = [], None
    while page := ids(database, JobFilter(), 10, before):
        pages.append(page)
        before = page[-1]
    assert [len(page) for page in pages] == [10, 10, 5]
    assert [job for page in pages for job in page] == added[::-1]


def test_every_filter_narrows(database: Database) -> None:
    both = add(database, experiment="a", labels={"team": "x", "stage": "1"})
    other = add(database, experiment="b", kind="evaluate", state="waiting", labels={"team": "x"})
    assert ids(database, JobFilter(states=[JobState.WAITING])) == [other]
    assert ids(database, JobFilter(kind="evaluate")) == [other]
    assert ids(database, JobFilter(experiment="a")) == [both]
    assert ids(database, JobFilter(labels={"team": "x", "stage": "1"})) == [both]
    assert sorted(ids(database, JobFilter(labels={"team": "x"}))) == sorted([both, other])
    assert ids(database, JobFilter(labels={"team": "y"})) == []


def test_a_page_costs_the_same_wherever_it_is(database: Database) -> None:
    """The plan of a late page starts at the cursor in the index: no OFFSET, no sort."""
    for number in range(30):
        add(database, id=f"{number:04}")
    statements: list[tuple[str, object]] = []

    def remember(
        _c: object, _cursor: object, statement: str, parameters: object, *_: object
    ) -> None:
        statements.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", remember)
    ids(database, JobFilter(), 5, "0010")
    event.remove(database.engine, "before_cursor_execute", remember)
    statement, parameters = next(s for s in statements if "FROM jobs" in s[0])
    explain = "EXPLAIN QUERY PLAN " if database.engine.dialect.name == "sqlite" else "EXPLAIN "
    with database.engine.connect() as connection:
        if database.engine.dialect.name == "postgresql":
            # With 30 rows the planner would rather read and sort all of them.
            connection.execute(text("SET enable_seqscan = off"))
            connection.execute(text("SET enable_bitmapscan = off"))
        rows = connection.exec_driver_sql(explain + statement, parameters).fetchall()  # type: ignore[arg-type]
    plan = " ".join(str(row) for row in rows)
    assert "SCAN jobs" not in plan
    assert "TEMP B-TREE" not in plan
    assert "Sort" not in plan


def test_runs_whose_steps_cost_the_same_are_found_among_any_number(database: Database) -> None:
    """It would read every job, or sort all that are alike, without its index."""

    def rows(count: int, **fields: Any) -> list[dict[str, Any]]:
        common = {
            "kind": "pretrain", "name": "n", "experiment": "e", "priority": 0, "spec": {},
            "request": {}, "max_attempts": 3, "summary": {}, "created_at": NOW,
        }  # fmt: skip
        return [{"id": new_id()} | common | fields for _ in range(count)]

    same = {"step_cost": "same", "workers": 2}
    succeeded = rows(3000, **same, state="succeeded")
    with database.write() as session:
        session.execute(insert(Job), rows(3000, **same, state="failed"))
        session.execute(insert(Job), succeeded)
        session.execute(insert(Job), rows(3000, step_cost="other", workers=2, state="succeeded"))
        session.execute(insert(Job), rows(1, step_cost="new", workers=1, state="running"))

    def found(key: str, workers: int, state: JobState = JobState.SUCCEEDED) -> list[str]:
        with database.read() as session:
            jobs = JobRepository(session, NOW).of_step_cost(key, workers, state, 10)
            return [job.id for job in jobs]

    assert found("same", 2) == [row["id"] for row in succeeded[:-11:-1]]
    assert found("same", 4) == []
    assert found("new", 1) == []
    assert len(found("new", 1, JobState.RUNNING)) == 1
    if database.engine.dialect.name == "sqlite":
        with database.read() as session:
            plan = session.execute(
                text(
                    "EXPLAIN QUERY PLAN SELECT * FROM jobs WHERE step_cost = 'same' AND "
                    "workers = 2 AND state = 'succeeded' ORDER BY id DESC LIMIT 10"
                )
            ).all()
        assert [row.detail for row in plan] == [
            "SEARCH jobs USING INDEX ix_jobs_step_cost (step_cost=? AND workers=? AND state=?)"
        ]


def test_a_change_and_its_event_commit_together(database: Database) -> None:
    job = add(database)
    with database.write() as session:
        JobRepository(session, NOW).transition(job, JobState.CANCELLED, message="why")
    with database.read() as session:
        jobs = JobRepository(session, NOW)
        events = jobs.events(job, 10, 0)
        assert [(e.before, e.after, e.message) for e in events] == [
            (None, "queued", "submitted"),
            ("queued", "cancelled", "why"),
        ]
        assert jobs.get(job).finished_at == NOW

    fresh = add(database)

    def change_and_fail() -> None:
        with database.write() as session:
            JobRepository(session, NOW).transition(fresh, JobState.CANCELLED, message="why")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change_and_fail()
    with database.read() as session:
        jobs = JobRepository(session, NOW)
        assert jobs.get(fresh).state == "queued"
        assert len(jobs.events(fresh, 10, 0)) == 1


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_what_has_ended_stays_as_it_is(database: Database, state: str) -> None:
    job = add(database, state=state)
    for after in JobState:
        with pytest.raises(IllegalTransition), database.write() as session:
            JobRepository(session, NOW).transition(job, after, message=None)


def test_a_late_attempt_cannot_write_a_result(database: Database) -> None:
    job = add(database)
    with database.write() as session:
        jobs = JobRepository(session, NOW)
        jobs.transition(job, JobState.STARTING, message=None)
        first = jobs.open_attempt(job, 1)
        jobs.transition(job, JobState.QUEUED, message="lost", attempt=1)
        jobs.end_attempt(first, "infrastructure", "lost")
        jobs.transition(job, JobState.STARTING, message=None)
        jobs.open_attempt(job, 2)
    with pytest.raises(IllegalTransition), database.write() as session:
        JobRepository(session, NOW).transition(job, JobState.SUCCEEDED, message=None, attempt=1)
    with database.write() as session:
        JobRepository(session, NOW).transition(job, JobState.SUCCEEDED, message=None, attempt=2)


def test_a_job_has_one_live_attempt_at_most(database: Database) -> None:
    job = add(database)
    with database.write() as session:
        JobRepository(session, NOW).open_attempt(job, 1)
    with pytest.raises(IntegrityError), database.write() as session:
        JobRepository(session, NOW).open_attempt(job, 2)


def test_the_queue_knows_who_must_wait(database: Database) -> None:
    late = add(database, id="0002")
    early = add(database, id="0001")
    add(database, id="0004", not_before=NOW + timedelta(seconds=1))
    add(database, id="0005", state="waiting")
    with database.read() as session:
        assert {job.id for job in JobRepository(session, NOW).queued()} == {early, late}


def test_waiting_jobs_are_released_when_all_they_wait_for_has_come(database: Database) -> None:
    running, succeeded, failed = (
        add(database, state=state) for state in ("running", "succeeded", "failed")
    )
    later = NOW + timedelta(seconds=1)
    add(database, state="waiting", dependencies={running: "finished", succeeded: "succeeded"})
    add(database, state="waiting", start_after=later, dependencies={succeeded: "succeeded"})
    free = [
        add(database, state="waiting", dependencies={succeeded: "succeeded", failed: "finished"}),
        add(database, state="waiting", start_after=NOW),
    ]
    unsatisfiable = add(
        database, state="waiting", dependencies={running: "succeeded", failed: "succeeded"}
    )
    with database.read() as session:
        jobs = JobRepository(session, NOW)
        assert [job.id for job in jobs.ready(10)] == free
        assert [(job.id, other.id) for job, other in jobs.unsatisfiable(10)] == [
            (unsatisfiable, failed)
        ]


def test_jobs_are_overdue_from_their_deadline_until_they_have_ended(database: Database) -> None:
    late = [add(database, state=s, deadline=NOW) for s in ("waiting", "queued", "running")]
    add(database, state="stopping", deadline=NOW)
    add(database, state="failed", deadline=NOW, finished_at=NOW)
    add(database, state="running", deadline=NOW + timedelta(seconds=1))
    with database.read() as session:
        assert {job.id for job in JobRepository(session, NOW).overdue(10)} == set(late)


def test_a_job_is_released_when_the_encoder_that_it_waits_for_is_kept(database: Database) -> None:
    """The other job trains on; if it fails, what it has kept is still evaluated."""
    training = add(database, state="running")
    at_10, at_20 = (
        add(database, state="waiting", dependencies={training: epoch}) for epoch in (10, 20)
    )

    def after(progress: dict[str, Any], state: str = "running") -> tuple[list[str], list[str]]:
        with database.write() as session:
            jobs = JobRepository(session, NOW)
            jobs.set_reading(training, progress, {}, NOW)
            found = {"state": state, "id": training}
            session.execute(text("UPDATE jobs SET state = :state WHERE id = :id"), found)
        with database.read() as session:
            jobs = JobRepository(session, NOW)
            ready = [job.id for job in jobs.ready(10)]
            return ready, [job.id for job, _ in jobs.unsatisfiable(10)]

    assert after({"epoch": 9}) == ([], [])
    assert after({"epoch": 10, "kept_epoch": 10}) == ([at_10], [])
    # A later attempt has kept nothing yet.
    assert after({"epoch": 11, "kept_epoch": None}) == ([at_10], [])
    assert after({"epoch": 12}, "failed") == ([at_10], [at_20])
    assert after({"epoch": 30}, "succeeded") == ([at_10, at_20], [])


def test_a_dependency_must_exist(database: Database) -> None:
    with pytest.raises(IntegrityError):
        add(database, dependencies={"nothing": "succeeded"})


def test_the_first_answer_to_a_key_is_kept(database: Database) -> None:
    with database.write() as session:
        assert JobRepository(session, NOW).store_answer("key", "digest", {"id": "1"})
    with database.write() as session:
        assert not JobRepository(session, NOW).store_answer("key", "digest", {"id": "2"})
        assert JobRepository(session, NOW).answer_for("key").answer == {"id": "1"}  # type: ignore[union-attr]


def test_a_message_of_any_characters_is_stored(database: Database) -> None:
    job = add(database)
    message = "no such file: a\x00b\ud800\x1b[2J\nsecond line" + "x" * 5000
    with database.write() as session:
        jobs = JobRepository(session, NOW)
        jobs.transition(job, JobState.STARTING, message=message)
        attempt = jobs.open_attempt(job, 1)
        jobs.end_attempt(attempt, "infrastructure", message)
    with database.read() as session:
        stored = JobRepository(session, NOW).get(job)
    assert stored.reason is not None
    assert stored.reason.startswith("no such file: a�b��[2J second linexxx")
    assert stored.attempts[0].message == stored.reason
    assert len(stored.reason) < 2100
