"""Only the unit of work commits; what follows a commit happens after it, or not at all."""

import threading
import time

import pytest
from sqlalchemy import text

from core.access import projects
from core.database.db import Database, after_commit, ring
from core.errors import NotFound
from core.service import Service
from core.settings import Settings


def test_a_unit_of_work_is_all_or_nothing(service: Service) -> None:
    with pytest.raises(ZeroDivisionError), service.database.unit_of_work() as session:  # noqa: PT012
        projects.create(session, "never")
        _ = 1 / 0
    with service.database.reader() as session, pytest.raises(NotFound):
        projects.by_name(session, "never")
    with service.database.unit_of_work() as session:
        projects.create(session, "now")
    with service.database.reader() as session:
        assert projects.by_name(session, "now").id


def test_hooks_run_after_the_commit_and_only_then(settings: Settings) -> None:
    rung: list[str] = []
    database = Database(settings, rung.append)

    def seen() -> bool:
        with database.reader() as session:
            return session.scalar(text("SELECT count(*) FROM projects WHERE name = 'p'")) == 1

    found: list[bool] = []
    with database.unit_of_work() as session:
        projects.create(session, "p")
        after_commit(session, lambda: found.append(seen()))
        ring(session, "cpu")
        ring(session, "cpu")
        session.flush()
        assert found == []
    assert found == [True]
    assert rung == ["cpu"]
    with pytest.raises(ZeroDivisionError), database.unit_of_work() as session:  # noqa: PT012
        ring(session, "gpu")
        after_commit(session, lambda: found.append(True))
        _ = 1 / 0
    assert (found, rung) == ([True], ["cpu"])
    database.close()


def test_what_a_reader_writes_is_not_kept_on_sqlite(sqlite_url: str) -> None:
    database = Database(Settings(database_url=sqlite_url))
    with database.reader() as session:
        projects.create(session, "lost")
    with database.reader() as session, pytest.raises(NotFound):
        projects.by_name(session, "lost")
    database.close()


def test_a_reader_does_not_wait_for_a_writer(service: Service) -> None:
    with service.database.unit_of_work() as session:
        projects.create(session, "uncommitted")
        session.flush()
        begun = time.perf_counter()
        with service.database.reader() as reader:
            assert projects.default(reader).name == "default"
            with pytest.raises(NotFound):
                projects.by_name(reader, "uncommitted")
        assert time.perf_counter() - begun < 2


def test_a_writer_that_reads_first_waits_for_its_turn(service: Service) -> None:
    """With SQLite's deferred transactions one of the two would fail with SQLITE_BUSY at once."""
    name = "counted"
    with service.database.unit_of_work() as session:
        projects.create(session, name, max_queued_jobs=0)
    barrier = threading.Barrier(2)

    def add_one() -> None:
        barrier.wait()
        for _ in range(10):
            with service.database.unit_of_work() as session:
                projects.by_name(session, name)
                session.execute(text("UPDATE projects SET max_queued_jobs = max_queued_jobs + 1 WHERE name = :name"), {"name": name})

    threads = [threading.Thread(target=add_one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with service.database.reader() as session:
        assert projects.by_name(session, name).max_queued_jobs == 20


def test_sqlite_is_durable_and_checks_foreign_keys(sqlite_url: str) -> None:
    database = Database(Settings(database_url=sqlite_url))
    with database.reader() as session:
        pragmas = {name: session.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous", "foreign_keys")}
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    database.close()
