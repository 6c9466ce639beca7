"""One job for one key, however often and however concurrently it is asked for."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select, update

from core import jobs
from core.database.clock import db_now
from core.database.tables import IdempotencyKey, Job
from core.errors import IdempotencyInProgress, IdempotencyKeyReused, MalformedRequest, NotFound, SpecInvalid
from core.jobs import idempotency
from core.service import Service
from core.settings import Settings
from tests.core.conftest import World, make_world


def _create(world: World, key: str, **more: object) -> jobs.Created:
    document = world.spec(**more)
    with world.service.database.unit_of_work() as session:
        request = idempotency.request(key, "POST /v1/jobs", document)
        return jobs.create(session, world.service.settings, world.project_id, document, idempotent=request)


def test_the_same_key_and_body_give_the_same_job(world: World) -> None:
    first, second, other = _create(world, "a"), _create(world, "a"), _create(world, "b")
    assert (first.replayed, second.replayed, other.replayed) == (False, True, False)
    assert first.job.id == second.job.id != other.job.id


@pytest.mark.parametrize("key", ["a", None])
def test_what_is_made_once_is_found_again_and_said_to_be(world: World, key: str | None) -> None:
    made: list[str] = []

    def ask(new_id: str) -> tuple[str, bool]:
        with world.service.database.unit_of_work() as session:
            asked = None if key is None else idempotency.request(key, "POST /v1/models", {"name": "m"})
            return idempotency.once(session, world.project_id, asked, new_id, find=lambda name: f"found {name}", make=make)

    def make(new_id: str) -> str:
        made.append(new_id)
        return new_id

    first, second = ask("mdl_1"), ask("mdl_2")
    assert first == ("mdl_1", False)
    assert second == (("found mdl_1", True) if key else ("mdl_2", False))
    assert made == (["mdl_1"] if key else ["mdl_1", "mdl_2"])


def test_another_body_is_refused(world: World) -> None:
    _create(world, "a")
    with pytest.raises(IdempotencyKeyReused):
        _create(world, "a", name="another")


def test_keys_of_projects_are_apart(world: World, another_world) -> None:
    assert _create(world, "a").job.id != _create(another_world("other"), "a").job.id


def test_a_refused_request_does_not_use_up_its_key(world: World) -> None:
    with pytest.raises(SpecInvalid):
        _create(world, "a", steps=[])
    assert not _create(world, "a").replayed


def test_fifty_at_once_make_one_job(world: World) -> None:
    barrier = threading.Barrier(10)

    def submit(_: int) -> str:
        barrier.wait()
        return _create(world, "same").job.id

    with ThreadPoolExecutor(10) as pool:
        made = set(pool.map(submit, range(50)))
    assert len(made) == 1
    with world.service.database.reader() as session:
        assert list(session.scalars(select(Job.id).where(Job.shown))) == list(made)


def test_a_request_that_hangs_does_not_hold_up_its_repetition_for_ever(postgres_url: str, tmp_path: Path) -> None:
    with Service.open(Settings(database_url=postgres_url, data_dir=tmp_path, min_free_bytes=0, lock_wait_seconds=0.2)) as service:
        world = make_world(service)
        document = world.spec()
        with service.database.unit_of_work() as session:
            jobs.create(
                session, service.settings, world.project_id, document, idempotent=idempotency.request("a", "POST /v1/jobs", document)
            )
            with pytest.raises(IdempotencyInProgress):
                _create(world, "a")
        assert _create(world, "a").replayed


def test_a_key_is_free_again_after_its_time(world: World) -> None:
    first = _create(world, "a").job.id
    with world.service.database.unit_of_work() as session:
        session.execute(update(IdempotencyKey).values(expires_at=db_now(-1)))
    assert _create(world, "a", name="another").job.id != first
    with world.service.database.unit_of_work() as session:
        assert idempotency.expire(session) == 0
        session.execute(update(IdempotencyKey).values(expires_at=db_now(-1)))
        assert idempotency.expire(session) == 1


def test_the_key_of_a_deleted_job_makes_no_second_one(world: World) -> None:
    job = _create(world, "a").job
    with world.service.database.unit_of_work() as session:
        jobs.cancel(session, world.project_id, job.id)
        jobs.delete(session, world.project_id, job.id)
    with pytest.raises(NotFound):
        _create(world, "a")


@pytest.mark.parametrize("key", ["", "with space", "ümlaut", "x" * 256])
def test_keys_that_are_none(key: str) -> None:
    with pytest.raises(MalformedRequest):
        idempotency.request(key, "POST /v1/jobs")
