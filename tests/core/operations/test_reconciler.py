"""What a death left behind is repaired, by one process at a time, and a jump of the clock takes nobody's job away."""

import time
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from core.database import leases
from core.database.clock import db_now
from core.database.db import Database
from core.database.tables import IdempotencyKey, Job, Lease, StoredBlob, Upload
from core.operations import reconciler
from core.operations.reconciler import LEASE, Reconciler
from core.queue import Doorbell
from core.service import Service
from core.settings import Settings
from tests import servers
from tests.core.conftest import World


def _reconciler(service: Service) -> Reconciler:
    return Reconciler(service.settings, service.database, service.blobs, service.doorbell)


def _expire(world: World) -> None:
    with world.service.database.unit_of_work() as session:
        session.execute(update(Job).where(Job.status == "running").values(lease_expires_at=db_now(-1)))


def test_lost_jobs_are_taken_back(world: World) -> None:
    lost, alive = world.running(), world.running()
    with world.service.database.unit_of_work() as session:
        session.execute(update(Job).where(Job.id == lost.job_id).values(lease_expires_at=db_now(-1)))
    done = _reconciler(world.service).run_once()
    assert done is not None
    assert done.lost == 1
    assert (world.job(lost.job_id).status, world.job(alive.job_id).status) == ("queued", "running")


def test_one_process_reconciles_at_a_time(world: World) -> None:
    first, second = _reconciler(world.service), _reconciler(world.service)
    assert first.run_once() is not None
    assert second.run_once() is None
    assert first.run_once() is not None
    with world.service.database.unit_of_work() as session:
        session.execute(update(Lease).where(Lease.name == LEASE).values(expires_at=db_now(-1)))
    assert second.run_once() is not None
    assert first.run_once() is None


def test_a_reconciler_that_stops_gives_its_lease_back(world: World) -> None:
    first = _reconciler(world.service)
    first.start()
    claim = world.running()
    _expire(world)
    servers.wait_until(lambda: world.job(claim.job_id).status == "queued")
    first.stop()
    assert _reconciler(world.service).run_once() is not None


def test_it_goes_on_after_the_database_was_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = world.service.settings.model_copy(update={"reconcile_seconds": 0.05})
    running = Reconciler(fast, world.service.database, world.service.blobs, world.service.doorbell)
    failed: list[str] = []

    def away(*_: object) -> None:
        failed.append("once")
        monkeypatch.undo()
        raise ConnectionError("the database is away")

    monkeypatch.setattr(leases, "acquire", away)
    running.start()
    claim = world.running()
    _expire(world)
    servers.wait_until(lambda: world.job(claim.job_id).status == "queued")
    running.stop()
    assert failed == ["once"]


def test_leases_go_to_one_owner_at_a_time(service: Service) -> None:
    with service.database.unit_of_work() as session:
        assert leases.acquire(session, "x", "a", 60)
        assert leases.acquire(session, "x", "a", 60)
        assert not leases.acquire(session, "x", "b", 60)
        assert leases.acquire(session, "y", "b", 60)
        leases.release(session, "x", "b")
        assert not leases.acquire(session, "x", "b", 60)
        leases.release(session, "x", "a")
        assert leases.acquire(session, "x", "b", 60)


def test_it_rings_for_jobs_that_nobody_took(world: World, broker_url: str, valkey: servers.Valkey) -> None:
    settings = world.service.settings.model_copy(update={"broker_url": broker_url, "reconcile_seconds": 0.05})
    bell = Doorbell(settings)
    silent = Reconciler(settings, world.service.database, world.service.blobs, bell)
    for _ in range(3):
        world.submit()
    time.sleep(0.1)
    done = silent.run_once()
    assert done is not None
    assert done.rung == 1

    def rung() -> bool:
        with valkey.client as client:
            return int(client.llen("cpu")) == 3

    servers.wait_until(rung)
    silent.run_once()
    silent.run_once()
    time.sleep(0.2)
    assert rung(), "what the broker still holds is not added to"
    bell.close()


def test_a_jump_of_the_databases_clock_expires_no_lease(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = world.running()
    repair = _reconciler(world.service)
    repair.run_once()
    real = reconciler.now
    monkeypatch.setattr(reconciler, "now", lambda session: real(session) + timedelta(days=30))
    _expire(world)
    assert repair.run_once().lost == 0
    assert world.job(claim.job_id).status == "running"
    # After a lease's length on the steady clock, living workers have renewed theirs, and the rest is lost indeed.
    steady = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: steady() + world.service.settings.lease_seconds + 1)
    monkeypatch.setattr(
        reconciler, "now", lambda session: real(session) + timedelta(days=30, seconds=world.service.settings.lease_seconds + 1)
    )
    assert repair.run_once().lost == 1


def test_expired_things_are_forgotten(world: World) -> None:
    service = world.service
    blob = service.blobs.put_bytes(b"nobody needs this")
    upload = service.uploads.create(world.project_id).upload
    with service.database.unit_of_work() as session:
        session.add(
            IdempotencyKey(project_id=world.project_id, key="k", request_sha256="0" * 64, resource_id="job_x", expires_at=db_now(-1))
        )
        session.execute(update(Upload).values(expires_at=db_now(-1)))
        leases.acquire(session, "worker:cpu:" + "h" * 400, "h" * 100, -3601)
        leases.acquire(session, "worker:cpu:b", "b", -1)
        session.execute(update(StoredBlob).values(touched_at=db_now(-(10**6))))
    done = _reconciler(service).run_once()
    assert done is not None
    assert (done.expired_keys, done.expired_leases, done.expired_uploads, done.removed_blobs) == (1, 1, 1, 1)
    with service.database.reader() as session:
        assert session.get(Upload, upload.id) is None
        assert session.get(StoredBlob, blob.sha256) is None
        assert session.scalar(select(StoredBlob.sha256)) == world.model.sha256


def test_a_clock_of_a_host_does_not_matter_on_postgresql(postgres_url: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The leases of a host whose clock is wrong by a month are as long as everybody's: only the database's clock counts."""
    settings = Settings(database_url=postgres_url, data_dir=tmp_path)
    database = Database(settings)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 30 * 86_400)
    with database.unit_of_work() as session:
        assert leases.acquire(session, "x", "a", 60)
    monkeypatch.undo()
    with database.unit_of_work() as session:
        assert not leases.acquire(session, "x", "b", 60)
        assert session.scalar(select(Lease.expires_at < db_now(61)))
    database.close()
