"""The database goes away, or fills up: requests get a typed answer, nothing is half done, and all is well when it is back."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from core import jobs
from core.access import projects
from core.database import migrate
from core.database.db import Database
from core.database.tables import Job
from core.errors import ServiceError, StorageFull, Unavailable
from core.jobs import idempotency
from core.service import Service
from core.settings import Settings
from tests import servers
from tests.core.conftest import make_world
from tests.faults.invariants import violations
from tests.proxy import Fault, FaultProxy


@pytest.fixture
def own_postgres() -> Iterator[servers.Postgres]:
    """A PostgreSQL that the test may kill."""
    with servers.postgres() as server:
        yield server


def test_a_restart_in_the_middle_of_a_transaction(own_postgres: servers.Postgres, tmp_path: Path) -> None:
    settings = Settings(database_url=own_postgres.url(own_postgres.create()), data_dir=tmp_path, min_free_bytes=0)
    migrate.upgrade(settings)
    with Service.open(settings) as service:
        world = make_world(service)
        claim = world.running()
        with pytest.raises(Unavailable), service.database.unit_of_work() as session:  # noqa: PT012
            jobs.finish(session, claim.job_id, claim.fence, outcome=None, result={})
            own_postgres.stop(signal.SIGQUIT)
        with pytest.raises(Unavailable, match="does not answer"):
            world.job(claim.job_id)
        own_postgres.start()
        assert world.job(claim.job_id).status == "running"
        with service.database.unit_of_work() as session:
            jobs.finish(session, claim.job_id, claim.fence, outcome=None, result={})
        assert world.events(claim.job_id) == ["created", "started", "succeeded"]


def test_a_commit_whose_answer_is_lost_is_found_again_by_its_key(postgres: servers.Postgres, postgres_url: str, tmp_path: Path) -> None:
    name = postgres_url.partition("@/")[2].partition("?")[0]
    proxy = FaultProxy(postgres.port)
    settings = Settings(database_url=postgres.tcp_url(name, proxy.port), data_dir=tmp_path, min_free_bytes=0)
    with Service.open(settings) as service:
        world = make_world(service)
        document = world.spec()
        request = idempotency.request("key", document)
        with pytest.raises(Unavailable), service.database.unit_of_work() as session:  # noqa: PT012
            lost = jobs.create(session, settings, world.project_id, document, idempotent=request).job.id
            proxy.fault = Fault.CUT_ANSWERS
        proxy.fault = Fault.NONE
        with service.database.unit_of_work() as session:
            again = jobs.create(session, settings, world.project_id, document, idempotent=request)
        assert (again.job.id, again.replayed) == (lost, True)
        claim = world.claim()
        assert claim is not None
        with pytest.raises(Unavailable), service.database.unit_of_work() as session:  # noqa: PT012
            jobs.finish(session, claim.job_id, claim.fence, outcome=None, result={})
            proxy.fault = Fault.CUT_ANSWERS
        proxy.fault = Fault.NONE
        assert world.job(lost).status == "succeeded"
        with service.database.reader() as session:
            assert list(session.scalars(select(Job.id).where(Job.shown))) == [lost]
        assert [breach for breach in violations(service) if not breach.startswith("I2")] == []
    proxy.close()


def test_a_full_disk_is_said_and_recovers(sqlite_url: str, tmp_path: Path) -> None:
    with Service.open(Settings(database_url=sqlite_url, data_dir=tmp_path, min_free_bytes=0)) as service:
        world = make_world(service)

        def limit(pages: int) -> None:
            # SQLite answers as on a full disk when a file may not grow.
            with service.database.engine.connect() as connection:
                connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

        with service.database.reader() as session:
            used = session.scalar(text("PRAGMA page_count"))
        service.database.engine.dispose()
        limit(used)
        with pytest.raises(StorageFull, match="disk of the database"):  # noqa: PT012
            for number in range(2000):
                world.submit(name=f"{number}" * 20)
        limit(2**30)
        assert world.submit().status == "queued"
        assert violations(service) == []


def test_a_writer_that_waits_too_long_is_told_so(sqlite_url: str, tmp_path: Path) -> None:
    database = Database(Settings(database_url=sqlite_url, data_dir=tmp_path, lock_wait_seconds=0.1))
    with database.unit_of_work() as session:
        projects.create(session, "a")
        with pytest.raises(Unavailable, match="locked"), database.unit_of_work() as other:
            projects.create(other, "b")
    database.close()


@pytest.mark.parametrize("statement", ["SELECT * FROM no_such_table", "SELEKT 1"])
def test_mistakes_of_the_code_are_not_outages(service: Service, statement: str) -> None:
    with pytest.raises((OperationalError, ProgrammingError)), service.database.reader() as session:
        session.execute(text(statement))


def test_nobody_listens(tmp_path: Path) -> None:
    database = Database(Settings(database_url=f"postgresql://x@127.0.0.1:{servers.free_port()}/x", data_dir=tmp_path))
    with pytest.raises(ServiceError) as error, database.reader() as session:
        session.execute(text("SELECT 1"))
    assert (error.value.code, error.value.status) == ("service_unavailable", 503)
