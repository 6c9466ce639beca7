"""Two databases behind one set of rules: who may commit, who may write, and what happens after a commit.

Only `Database.unit_of_work` commits. What must not happen before the commit (ringing the doorbell) is asked for with
`after_commit` or `ring`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from core.database.errors import translated
from core.database.serialization import to_json
from core.settings import Settings

if TYPE_CHECKING:
    import psycopg

__all__ = ["Database", "Session", "after_commit", "ring", "sqlite_file"]

_HOOKS = "after_commit"
_RINGS = "rings"


class Database:
    """The service's database. `doorbell` is called after a commit with the name of each queue that got work."""

    def __init__(self, settings: Settings, doorbell: Callable[[str], None] | None = None) -> None:
        self.url = make_url(settings.resolved_database_url)
        self.engine = _engine(settings)
        self.doorbell = doorbell
        self._writers = sessionmaker(self.engine, expire_on_commit=False)
        self._readers = sessionmaker(_for_reading(self.engine), expire_on_commit=False)

    @contextmanager
    def unit_of_work(self) -> Iterator[Session]:
        """One transaction: commits when the block ends well, rolls back when it raises. The only place that commits.

        Raises `service_unavailable` and `storage_full` when the database is away or full.
        """
        with translated(), self._writers() as session:
            yield session
            session.commit()
            hooks, rings = session.info.pop(_HOOKS, []), session.info.pop(_RINGS, {})
        for hook in hooks:
            hook()
        if self.doorbell is not None:
            for queue in rings:
                self.doorbell(queue)

    @contextmanager
    def reader(self) -> Iterator[Session]:
        """A session for reading, which takes no write lock; what it changes is lost. Raises `service_unavailable`."""
        with translated(), self._readers() as session:
            yield session

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def sqlite_file(settings: Settings) -> Path | None:
    """The file of an embedded database; None for one on a server or in memory."""
    url = make_url(settings.resolved_database_url)
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    return Path(url.database)


def after_commit(session: Session, hook: Callable[[], None]) -> None:
    """Call `hook` once the session's unit of work has committed."""
    session.info.setdefault(_HOOKS, []).append(hook)


def ring(session: Session, queue: str) -> None:
    """Ring the doorbell of `queue` once the session's unit of work has committed."""
    session.info.setdefault(_RINGS, {})[queue] = None


def _engine(settings: Settings) -> Engine:
    url = make_url(settings.resolved_database_url)
    if url.get_backend_name() == "sqlite":
        if sqlite_file(settings) is not None:
            settings.data_dir.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url, json_serializer=to_json, pool_size=8, max_overflow=32, connect_args={"check_same_thread": False})
        event.listen(engine, "connect", _sqlite_connect(settings.lock_wait_seconds))
        event.listen(engine, "begin", _sqlite_begin)
        return engine
    engine = create_engine(
        url,
        json_serializer=to_json,
        pool_size=8,
        max_overflow=32,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": 5,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 15_000,
            "application_name": "modelpress",
        },
    )
    event.listen(engine, "connect", _postgresql_connect(settings.lock_wait_seconds))
    return engine


def _for_reading(engine: Engine) -> Engine:
    if engine.dialect.name == "sqlite":
        return engine.execution_options(sqlite_begin="BEGIN")
    # Each statement of READ COMMITTED sees its own snapshot anyway: without BEGIN and ROLLBACK two round trips are saved.
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def _postgresql_connect(lock_seconds: float) -> Callable[[psycopg.Connection[Any], ConnectionPoolEntry], None]:
    def connect(connection: psycopg.Connection[Any], _: ConnectionPoolEntry) -> None:
        connection.autocommit = True
        connection.execute(f"SET lock_timeout = {int(lock_seconds * 1000)}".encode())
        # A process that is stopped within a transaction must not hold up all others for ever.
        connection.execute(f"SET idle_in_transaction_session_timeout = {int(lock_seconds * 3000)}".encode())
        connection.autocommit = False

    return connect


def _sqlite_connect(busy_seconds: float) -> Callable[[sqlite3.Connection, ConnectionPoolEntry], None]:
    def connect(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
        # The driver's own transactions begin too late: `_sqlite_begin` sends BEGIN.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout={int(busy_seconds * 1000)}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    return connect


def _sqlite_begin(connection: Connection) -> Any:
    # A transaction that reads first and writes later would fail at once with SQLITE_BUSY instead of waiting for its turn.
    connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN IMMEDIATE"))
