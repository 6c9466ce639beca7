"""The checker finds what it is there to find: each promise is broken once, on purpose."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from core import jobs
from core.access import projects
from core.blobs.ingest import key_of
from core.database.clock import db_now
from core.database.tables import Artifact, Dataset, IdempotencyKey, Job, JobEvent, LedgerEntry, Model
from core.jobs import JobError, NewArtifact, idempotency
from core.service import Service
from core.settings import Settings
from tests.compose import ROOT
from tests.core.conftest import World, make_world
from tests.faults.elsewhere import ELSEWHERE
from tests.faults.invariants import Seen, violations


@pytest.fixture
def world(service: Service) -> World:
    """A project with jobs of every end, on each database."""
    return _lived_in(service)


@pytest.fixture
def sqlite_world(sqlite_url: str, tmp_path: Path) -> Iterator[World]:
    """The same on SQLite only."""
    with Service.open(Settings(database_url=sqlite_url, data_dir=tmp_path / "data", min_free_bytes=0)) as service:
        yield _lived_in(service)


def _lived_in(service: Service) -> World:
    """One job of each end, one that was lost once, one that waits."""
    world = make_world(service)
    done = world.running(name="done")
    blob = service.blobs.put_bytes(b'{"report_version": 1}')
    with service.database.unit_of_work() as session:
        artifact = NewArtifact("report", "json", "report.json", blob)
        jobs.finish(session, done.job_id, done.fence, outcome=None, result={}, artifacts=[artifact])
    failed = world.running(name="failed")
    with service.database.unit_of_work() as session:
        jobs.fail(session, failed.job_id, failed.fence, JobError.of("model_invalid", "user", "it has no nodes"))
    cancelled = world.submit(name="cancelled")
    with service.database.unit_of_work() as session:
        jobs.cancel(session, world.project_id, cancelled.id)
    lost = world.running(name="lost")
    with service.database.unit_of_work() as session:
        session.execute(update(Job).where(Job.id == lost.job_id).values(lease_expires_at=db_now(-1)))
    with service.database.unit_of_work() as session:
        jobs.lose(session, lost.job_id, lost.fence)
    with service.database.unit_of_work() as session:
        document = world.spec(name="keyed")
        jobs.create(session, service.settings, world.project_id, document, idempotent=idempotency.request("key", document))
    return world


def _job(world: World, name: str) -> Job:
    with world.service.database.reader() as session:
        return next(job for job in jobs.search(session, world.project_id).data if job.name == name)


def _set(name: str, **values: object) -> Callable[[World], None]:
    def change(world: World) -> None:
        with world.service.database.unit_of_work() as session:
            session.execute(update(Job).where(Job.id == _job(world, name).id).values(**values))

    return change


def _all(statement: object) -> Callable[[World], None]:
    def change(world: World) -> None:
        with world.service.database.unit_of_work() as session:
            session.execute(statement)  # type: ignore[call-overload]

    return change


def _event(name: str, kind: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        job = _job(world, name)
        with world.service.database.unit_of_work() as session:
            session.add(JobEvent(job_id=job.id, seq=job.event_seq + 1, type=kind, fence=job.fence, data={}))
            session.execute(update(Job).where(Job.id == job.id).values(event_seq=job.event_seq + 1))

    return change


def _flip(world: World) -> None:
    root = Path(world.service.settings.resolved_blob_url.removeprefix("file://"))
    with world.service.database.reader() as session:
        (artifact,) = jobs.artifacts(session, world.project_id, _job(world, "done").id)
    path = root / key_of(artifact.blob_sha256)
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def _not_json(world: World) -> None:
    blob = world.service.blobs.put_bytes(b"not json")
    _all(update(Artifact).values(blob_sha256=blob.sha256, size_bytes=8))(world)


def _other_project(world: World) -> None:
    with world.service.database.unit_of_work() as session:
        session.execute(update(Dataset).values(project_id=projects.create(session, "other").id))


def _stray_file(world: World) -> None:
    (world.service.blobs.store.staging / "in-stray").write_bytes(b"x")


def _stray_part(world: World) -> None:
    staged = world.service.blobs.store.staging / "in-stray"
    staged.write_bytes(b"x")
    world.service.blobs.store.publish(staged, "uploads/upl_gone/00001-x")


def _lose_bytes(world: World) -> None:
    world.service.blobs.store.delete(key_of(world.model.sha256))


BREACHES: dict[str, tuple[str, Callable[[World], None]]] = {
    "running for ever": ("I1", _set("keyed", status="running")),
    "no artifact": ("I2", _all(delete(Artifact))),
    "artifact of a loser": ("I2", _all(update(Artifact).values(fence=7))),
    "artifact of another size": ("I2", _all(update(Artifact).values(size_bytes=7))),
    "artifact does not load": ("I2", _not_json),
    "flipped bit": ("I2", _flip),
    "flipped bit in the store": ("I3", _flip),
    "gap in the history": ("I4", _all(delete(JobEvent).where(JobEvent.type == "started"))),
    "goes on after the end": ("I4", _event("done", "phase")),
    "two ends": ("I4", _event("done", "cancelled")),
    "illegal edge": ("I4", _event("cancelled", "started")),
    "status without history": ("I4", _set("keyed", status="cancelled")),
    "not charged": ("I5", _all(delete(LedgerEntry))),
    "key without a job": ("I6", _all(update(IdempotencyKey).values(resource_id="job_x"))),
    "lease after the end": ("I8", _set("done", lease_expires_at=db_now(1))),
    "staged file": ("I8", _stray_file),
    "part of no upload": ("I8", _stray_part),
    "bytes of a model are gone": ("I8", _lose_bytes),
    "another project's dataset": ("I9", _other_project),
    "failure without a code": ("I10", _set("failed", error={"message": "?"})),
    "error of a success": ("I10", _set("done", error={"code": "x"})),
    "ready and empty": ("I10", _all(update(Model).values(inspection=None))),
}


def test_a_service_in_order_breaks_no_promise(world: World) -> None:
    done, keyed = _job(world, "done"), _job(world, "keyed")
    seen = Seen(accepted={done.id, keyed.id, "job_deleted"}, deleted={"job_deleted"}, ends={done.id: "succeeded"})
    seen.by_key["key"].add(keyed.id)
    assert violations(world.service, seen, orphans={2**22 + 1}) == []


@pytest.mark.parametrize("breach", BREACHES)
def test_each_breach_is_found(sqlite_world: World, breach: str) -> None:
    number, break_it = BREACHES[breach]
    break_it(sqlite_world)
    found = violations(sqlite_world.service)
    assert number in {sentence.split()[0] for sentence in found}, found


def test_what_clients_saw_counts(world: World) -> None:
    done, keyed = _job(world, "done"), _job(world, "keyed")
    assert violations(world.service, Seen(accepted={"job_lost"})) == ["I1 job_lost was accepted and is gone"]
    assert "I10" in violations(world.service, Seen(ends={done.id: "failed"}))[0]
    seen = Seen()
    seen.by_key["key"] |= {done.id}
    assert violations(world.service, seen)[0].startswith(f"I6 the key 'key' made {sorted([done.id, keyed.id])}")


def test_a_running_job_is_fine_while_its_lease_is(world: World) -> None:
    claim = world.claim()
    assert claim is not None
    assert violations(world.service, settled=False) == []
    with world.service.database.unit_of_work() as session:
        session.execute(update(Job).where(Job.id == claim.job_id).values(lease_expires_at=db_now(-3600)))
    assert violations(world.service, settled=False)[0].startswith("I1")


def test_what_is_left_on_the_machine_counts(world: World, tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "job_x").mkdir(parents=True)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        found = violations(world.service, orphans={child.pid, os.getpid() + 2**21}, folders=(work, tmp_path / "never"))
    finally:
        child.kill()
        child.wait()
    assert found == [f"I8 process {child.pid} is still there", f"I8 {work / 'job_x'} was left behind"]


def test_the_tests_that_count_as_rows_are_there() -> None:
    for nodes in ELSEWHERE.values():
        for node in nodes:
            file, _, name = node.partition("::")
            assert (ROOT / file).exists(), node
            assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text() if name else True, node
