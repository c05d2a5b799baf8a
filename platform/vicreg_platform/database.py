"""The database: one engine, one transaction at a time, migrations at start."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    JSON,
    Connection,
    DateTime,
    Dialect,
    Engine,
    Index,
    create_engine,
    event,
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.types import TypeDecorator

from vicreg_platform.clock import Clock
from vicreg_platform.errors import DatabaseTooNew, DatabaseUnavailable

BUSY_TIMEOUT_SECONDS = 30
CONNECT_SECONDS = 10
POOL_SIZE = 20
"""Connections of a process to PostgreSQL, at most."""
POOL_SECONDS = 5.0
"""How long a transaction waits for a connection of the pool."""
LIMITS = {
    "lock_timeout": "5s",
    "statement_timeout": "30s",
    # A process that is frozen inside a transaction must not keep its locks.
    "idle_in_transaction_session_timeout": "30s",
}
"""PostgreSQL's, for every connection: a request ends, whatever others have locked."""
MIGRATION_LOCK = 0x7663_7265_67
"""Key of the PostgreSQL advisory lock that lets one process migrate at a time."""


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC, on databases with and without time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store UTC; a moment without a time zone is a bug of the caller."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """SQLite returns the moment without its time zone."""
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class Base(DeclarativeBase):
    """The metadata of all tables."""

    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON}  # noqa: RUF012


class Database:
    """Transactions on the platform's database.

    Args:
        url: SQLAlchemy URL of a SQLite file or a PostgreSQL database.
    """

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        self._guard: Callable[[Session], None] | None = None

    def fenced(self, guard: Callable[[Session], None]) -> Database:
        """The same database, on which every transaction that writes first calls ``guard``.

        What ``guard`` raises undoes the transaction.
        """
        fenced = copy.copy(self)
        fenced._guard = guard
        return fenced

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads.

        Raises:
            DatabaseUnavailable: the database is unreachable.
        """
        with self._transaction(write=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that commits as one, or not at all.

        Raises:
            DatabaseUnavailable: the database is unreachable.
        """
        with self._transaction(write=True) as session:
            yield session

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[Session]:
        try:
            engine = self.engine.execution_options(vicreg_write=write)
            with Session(engine, expire_on_commit=False) as session, session.begin():
                if write and self._guard is not None:
                    self._guard(session)
                yield session
        except (OperationalError, InterfaceError) as error:
            raise DatabaseUnavailable(f"the database is unreachable: {error.orig}") from error
        except PoolTimeout as error:
            raise DatabaseUnavailable(
                f"all {POOL_SIZE} connections to the database are in use"
            ) from error

    def ping(self) -> None:
        """Check that the database is reachable.

        Raises:
            DatabaseUnavailable: it is not.
        """
        with self.read() as session:
            session.execute(text("SELECT 1"))

    def migrate(self, wait_seconds: float = 0.0) -> None:
        """Migrate the schema to this version; several processes may do so at once.

        Args:
            wait_seconds: how long to wait for a database that is not reachable yet.

        Raises:
            DatabaseUnavailable: it was not reachable in that time.
            DatabaseTooNew: a newer version has migrated it.
        """
        if self.engine.dialect.name == "sqlite":
            # SQLite's own wait does not cover the switch to WAL, which several may make at once.
            wait_seconds = max(wait_seconds, BUSY_TIMEOUT_SECONDS)
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                self._upgrade()
                return
            except OperationalError as error:
                if time.monotonic() >= deadline:
                    raise DatabaseUnavailable(
                        f"the database is unreachable: {error.orig}"
                    ) from error
                time.sleep(0.5)

    def _upgrade(self, revision: str = "head") -> None:
        config = Config()
        # Alembic's configuration interpolates, and a folder's name may hold a percent sign.
        scripts = str(Path(__file__).parent / "migrations").replace("%", "%%")
        config.set_main_option("script_location", scripts)
        engine = self.engine.execution_options(vicreg_write=True)
        with engine.connect() as connection, _foreign_keys_off(connection), connection.begin():
            if connection.dialect.name == "postgresql":
                # A migration takes as long as it takes.
                connection.execute(text("SET LOCAL lock_timeout = 0"))
                connection.execute(text("SET LOCAL statement_timeout = 0"))
                connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
            config.attributes["connection"] = connection
            _refuse_newer(config, connection)
            command.upgrade(config, revision)

    def dispose(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _refuse_newer(config: Config, connection: Connection) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    for found in MigrationContext.configure(connection).get_current_heads():
        if found not in known:
            raise DatabaseTooNew(
                f"the database was migrated by a newer version of the platform (to {found}; this "
                f"version knows up to {max(known)}): run that version, or restore a backup"
            )


def partial_index(name: str, column: str, where: str, *, unique: bool = False) -> Index:
    """An index of the rows for which an SQL condition holds, on both databases."""
    condition = text(where)
    return Index(name, column, unique=unique, sqlite_where=condition, postgresql_where=condition)


def database_time(session: Session, now: Clock) -> datetime:
    """The clock of the database server; ``now`` for SQLite, which has none of its own."""
    if session.get_bind().dialect.name != "postgresql":
        return now()
    moment: datetime = session.scalars(select(func.clock_timestamp())).one()
    return moment


def insert_if_absent(session: Session, table: type[Base], values: dict[str, Any]) -> bool:
    """Insert a row; False if one with its key exists.

    If another transaction has inserted it and is still open, this one waits until it ends.
    """
    dialect = session.get_bind().dialect.name
    statement = (postgresql if dialect == "postgresql" else sqlite).insert(table)
    # Not every driver returns the row count of an insert; all return the row itself.
    key = next(iter(table.__table__.primary_key))
    inserted = session.execute(statement.values(**values).on_conflict_do_nothing().returning(key))
    return inserted.first() is not None


@contextmanager
def _foreign_keys_off(connection: Connection) -> Iterator[None]:
    """Switch SQLite's foreign keys off: it alters a table by replacing it.

    The switch works only outside a transaction.
    """
    if connection.dialect.name != "sqlite":
        yield
        return
    driver: Any = connection.connection.driver_connection
    driver.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        driver.execute("PRAGMA foreign_keys=ON")


def _engine(url: str) -> Engine:
    if not url.startswith("sqlite"):
        server = create_engine(
            url,
            pool_pre_ping=True,
            pool_recycle=1800,
            pool_size=POOL_SIZE // 4,
            max_overflow=POOL_SIZE - POOL_SIZE // 4,
            pool_timeout=POOL_SECONDS,
            connect_args={"connect_timeout": CONNECT_SECONDS},
        )

        @event.listens_for(server, "connect")
        def _limit(connection: Any, _record: object) -> None:
            with connection.cursor() as cursor:
                for name, value in LIMITS.items():
                    cursor.execute(f"SET {name} = '{value}'")
            connection.commit()

        return server
    path = make_url(url).database or ":memory:"
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_SECONDS})

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        # The driver's own transaction handling begins too late; see "begin" below.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A writer takes the lock at once: two readers that both become writers would deadlock.
        write = connection.get_execution_options().get("vicreg_write", True)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine
