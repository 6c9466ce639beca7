"""Fixtures for every room: a migrated database of each kind, a broker, an object store, and the service over them.

One server of each kind serves all tests of a process. A test gets a copy of a SQLite file that the migrations made, or the emptied
PostgreSQL database that they made: copying one of those takes longer than most tests.
"""

import contextlib
import gc
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from core.database import migrate
from core.database.tables import Base, Project
from core.service import Service
from core.settings import Settings
from tests import division, servers

# Before anything imports torch, for this process and all that it starts: two threads of a small network wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long one example takes says how busy the machine is, nothing about the code.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> division.Division | None:
    """Divide by files with `--dist loadfile`."""
    return division.Division(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a process of several: long files first."""
    if hasattr(config, "workerinput"):
        division.long_ones_first(items)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Collect without looking for garbage, of which there is none, and look for it rarely from then on.

    Thousands of tests and the libraries that they import are a million objects; a search through them takes half a second.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.set_threshold(20_000, 20, 50)
        gc.enable()


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.Postgres]:
    """A PostgreSQL server for this test process."""
    with servers.postgres() as server:
        yield server


@pytest.fixture(scope="session")
def valkey() -> Iterator[servers.Valkey]:
    """A Valkey server for this test process."""
    with servers.valkey() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, str]]:
    """The environment of an S3 server for this test process, with the bucket `modelpress`."""
    with servers.s3() as environment:
        yield environment


@pytest.fixture
def broker_url(valkey: servers.Valkey) -> str:
    """An empty broker."""
    with valkey.client as client:
        client.flushall()
    return valkey.url


@pytest.fixture(scope="session")
def _postgres_database(postgres: servers.Postgres) -> str:
    name = postgres.create()
    migrate.upgrade(Settings(database_url=postgres.url(name)))
    return name


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    migrate.upgrade(Settings(database_url=f"sqlite:///{path}"))
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh, migrated database: the test runs once on SQLite and once on PostgreSQL."""
    yield from _fresh(request, request.param, tmp_path)


@pytest.fixture
def sqlite_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh, migrated SQLite database."""
    yield from _fresh(request, "sqlite", tmp_path)


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh, migrated PostgreSQL database."""
    yield from _fresh(request, "postgresql", tmp_path)


def _fresh(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> Iterator[str]:
    if kind == "sqlite":
        path = tmp_path / "modelpress.db"
        shutil.copy(request.getfixturevalue("_sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    server: servers.Postgres = request.getfixturevalue("postgres")
    name = request.getfixturevalue("_postgres_database")
    server.empty(name, [table.name for table in reversed(Base.metadata.sorted_tables) if table is not Project.__table__])
    yield server.url(name)


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """Settings over a fresh database of each kind, without a broker, with local blobs."""
    return Settings(database_url=database_url, data_dir=tmp_path / "data", min_free_bytes=0)


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    """The service over a fresh database of each kind."""
    with Service.open(settings) as opened:
        yield opened


@pytest.fixture
def open_service() -> Iterator[Callable[[Settings], Service]]:
    """Opens further services, as other processes would; closes them at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda settings: stack.enter_context(Service.open(settings))
