"""Alembic's environment: one transaction for everything, behind a lock, so that concurrent upgrades wait for each other."""

from typing import Any

from alembic import context
from sqlalchemy import Connection, text

from core.database.clock import UtcDateTime
from core.database.db import Database
from core.database.tables import Base
from core.settings import Settings

# Any constant serves; it must not change, as old and new processes have to wait for each other.
_LOCK = 7_041_776


def _render(kind: str, item: Any, _: Any) -> str | bool:
    if kind == "type" and isinstance(item, UtcDateTime):
        return "core.database.clock.UtcDateTime()"
    return False


def _migrate(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL lock_timeout = 0"))
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
    else:
        # SQLite rebuilds a table by copying it, and the transaction began with BEGIN IMMEDIATE, which is the lock.
        connection.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        render_item=_render,
        compare_type=True,
        transactional_ddl=True,
        transaction_per_migration=False,
    )
    context.run_migrations()


def _run() -> None:
    given = context.config.attributes.get("connection")
    if given is not None:
        _migrate(given)
        return
    database = Database(Settings())
    with database.engine.begin() as connection:
        _migrate(connection)
    database.close()


_run()
