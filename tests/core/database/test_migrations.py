"""Migrations on both databases: they make the declared tables, they can be undone, and they may be started twice at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.operations import Operations
from sqlalchemy import create_engine, inspect, text

from core.database import migrate
from core.database.tables import Base
from core.errors import Unavailable
from core.service import Service
from core.settings import Settings
from tests import servers


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """A database without a table."""
    if request.param == "sqlite":
        return Settings(data_dir=tmp_path)
    server: servers.Postgres = request.getfixturevalue("postgres")
    return Settings(data_dir=tmp_path, database_url=server.url(server.create()))


def _tables(settings: Settings) -> set[str]:
    engine = create_engine(settings.resolved_database_url)
    try:
        return set(inspect(engine).get_table_names()) - {"alembic_version"}
    finally:
        engine.dispose()


def test_up_down_up(empty: Settings) -> None:
    assert migrate.current(empty) is None
    with pytest.raises(Unavailable, match="at revision none"):
        migrate.require_current(empty)
    migrate.upgrade(empty)
    assert _tables(empty) == set(Base.metadata.tables)
    migrate.check(empty)
    migrate.require_current(empty)
    migrate.downgrade(empty, "base")
    assert _tables(empty) == set()
    migrate.upgrade(empty)
    migrate.check(empty)
    assert migrate.current(empty) == migrate.head()


def test_a_table_that_no_migration_makes_is_noticed(empty: Settings) -> None:
    migrate.upgrade(empty)
    engine = create_engine(empty.resolved_database_url)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE leases ADD COLUMN surplus INTEGER"))
    engine.dispose()
    with pytest.raises(Exception, match="surplus"):
        migrate.check(empty)


def test_concurrent_upgrades_wait_for_each_other(empty: Settings) -> None:
    environment = {"MODELPRESS_DATABASE_URL": empty.resolved_database_url}
    command = [sys.executable, "-m", "core.database.migrate", "upgrade"]
    running = [subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.PIPE) for _ in range(2)]
    for process in running:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
    migrate.check(empty)


def test_an_interrupted_upgrade_leaves_the_database_as_it_was(empty: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Operations, *_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Operations, "execute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        migrate.upgrade(empty)
    monkeypatch.undo()
    assert _tables(empty) == set()
    assert migrate.current(empty) is None
    migrate.upgrade(empty)


def test_the_service_does_not_open_an_old_database(empty: Settings) -> None:
    with pytest.raises(Unavailable, match="needs"), Service.open(empty):
        pass
