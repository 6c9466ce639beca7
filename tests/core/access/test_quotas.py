"""What a project may use: counted whole, taken in one transaction, and named where it does not suffice."""

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import event, insert, update

from core import jobs
from core.access import projects, quotas
from core.database.clock import db_now
from core.database.tables import Job, LedgerEntry, UploadPart
from core.errors import QuotaExceeded, UploadTooLarge
from core.library import models
from core.library.uploads import Uploads, blob_of
from tests.core.conftest import World


def _limit(world: World, **changes: float | None) -> None:
    with world.service.database.unit_of_work() as session:
        quotas.change(session, world.project_id, **changes)


def _usage(world: World) -> dict[str, float]:
    with world.service.database.reader() as session:
        found = quotas.usage(session, world.project_id)["quotas"]
    return {name: quota["used"] for name, quota in found.items()}


def _part(world: World, upload_id: str, number: int, content: bytes, uploads: Uploads | None = None) -> None:
    with world.service.blobs.stage() as staged:
        staged.write(content)
        (uploads or world.service.uploads).put_part(world.project_id, upload_id, number, staged)


def _named(refused: "pytest.ExceptionInfo[QuotaExceeded]") -> str:
    assert refused.value.retry_after_seconds
    return refused.value.errors[0].code


def test_everything_that_is_stored_counts_once(world: World) -> None:
    uploads = world.service.uploads
    before = world.model.size_bytes + world.dataset.size_bytes
    assert _usage(world)["stored_bytes"] == before
    announced = uploads.create(world.project_id, size_bytes=1000).upload.id
    assert _usage(world)["stored_bytes"] == before + 1000
    _part(world, announced, 1, b"x" * 10)
    assert _usage(world)["stored_bytes"] == before + 1000
    _part(world, announced, 1, b"x" * 1200)
    assert _usage(world)["stored_bytes"] == before + 1200
    _part(world, announced, 1, b"x" * 1000)
    uploads.complete(world.project_id, announced)
    assert _usage(world)["stored_bytes"] == before + 1000
    with world.service.database.unit_of_work() as session:
        blob = blob_of(session, world.project_id, announced)
        model = models.create(session, world.service.settings, world.project_id, name="m", format="onnx", metadata={}, blob=blob)
    assert _usage(world)["stored_bytes"] == before + 1000, "the upload and the model that was made of it are the same bytes"
    uploads.drop(world.project_id, announced)
    assert _usage(world)["stored_bytes"] == before + 1000
    with world.service.database.unit_of_work() as session:
        session.execute(update(Job).where(Job.model_id == model.id).values(status="succeeded"))
        models.delete(session, world.project_id, model.id)
    assert _usage(world)["stored_bytes"] == before


def test_unfinished_uploads_take_their_share(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads = world.service.uploads
    stored = world.model.size_bytes + world.dataset.size_bytes
    _limit(world, stored_bytes=stored + 100)
    with pytest.raises(QuotaExceeded) as refused:
        uploads.create(world.project_id, size_bytes=101)
    assert _named(refused) == "stored_bytes"
    open_ended = uploads.create(world.project_id).upload.id
    _part(world, open_ended, 1, b"x" * 60)
    with pytest.raises(QuotaExceeded):
        _part(world, open_ended, 2, b"x" * 41)
    _part(world, open_ended, 2, b"x" * 40)
    assert [part.number for part in uploads.get(world.project_id, open_ended).parts] == [1, 2]
    monkeypatch.setattr(quotas, "MOST_OPEN_UPLOADS", 1)
    with pytest.raises(QuotaExceeded) as refused:
        uploads.create(world.project_id)
    assert _named(refused) == "open_uploads"


def test_models_and_compute_time(world: World) -> None:
    _limit(world, models=1, compute_seconds=100)
    blob = world.service.blobs.put_bytes(b"another")

    def another() -> None:
        with world.service.database.unit_of_work() as session:
            models.create(session, world.service.settings, world.project_id, name="m", format="onnx", metadata={}, blob=blob)

    with pytest.raises(QuotaExceeded) as refused:
        another()
    assert _named(refused) == "models"
    world.submit()
    spent = {"project_id": world.project_id, "device": "cpu", "ended": "succeeded", "fence": 1}
    with world.service.database.unit_of_work() as session:
        old = insert(LedgerEntry).values(job_id="job_old", seconds=1e6, created_at=db_now(-quotas.COMPUTE_WINDOW_SECONDS - 60), **spent)
        session.execute(old)
    world.submit()
    with world.service.database.unit_of_work() as session:
        session.execute(insert(LedgerEntry).values(job_id="job_new", seconds=100.0, **spent))
    with pytest.raises(QuotaExceeded) as refused:
        world.submit()
    assert _named(refused) == "compute_seconds"
    _limit(world, compute_seconds=None)
    world.submit()


def test_the_last_place_is_given_once(world: World) -> None:
    """Twenty submit at the same moment, and five may."""
    _limit(world, queued_jobs=5)
    outcomes: list[str] = []
    together = threading.Barrier(20)

    def submit() -> None:
        together.wait()
        try:
            world.submit()
        except QuotaExceeded as refused:
            outcomes.append(refused.errors[0].code)
        else:
            outcomes.append("a place")

    threads = [threading.Thread(target=submit) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["a place"] * 5 + ["queued_jobs"] * 15


def test_quotas_are_those_of_one_project(world: World, another_world: Callable[[str], World]) -> None:
    other = another_world("other")
    _limit(world, queued_jobs=0)
    other.submit()
    with pytest.raises(QuotaExceeded):
        world.submit()


def test_a_part_costs_the_same_however_many_there_are(world: World) -> None:
    upload = world.service.uploads.create(world.project_id).upload.id
    loaded: list[int] = []

    def count(number: int) -> int:
        loaded.clear()
        _part(world, upload, number, b"x")
        return len(loaded)

    def note(*_: object) -> None:
        loaded.append(1)

    event.listen(UploadPart, "load", note)
    try:
        first = count(1)
        for number in range(2, 40):
            _part(world, upload, number, b"x")
        assert count(40) == first
    finally:
        event.remove(UploadPart, "load", note)
    small = Uploads(world.service.settings.model_copy(update={"max_upload_bytes": 41}), world.service.database, world.service.blobs)
    _part(world, upload, 41, b"x", small)
    with pytest.raises(UploadTooLarge):
        _part(world, upload, 42, b"x", small)
    _part(world, upload, 41, b"y", small)


def test_one_inspector_serves_projects_in_turn(world: World) -> None:
    """However many inspections one project queued before the other ones came."""
    with world.service.database.unit_of_work() as session:
        blob = world.service.blobs.put_bytes(b"flood")
        for _ in range(30):
            models.create(session, world.service.settings, world.project_id, name="m", format="onnx", metadata={}, blob=blob)
    served = []
    for name in ("b", "c"):
        with world.service.database.unit_of_work() as session:
            late = projects.create(session, name).id
            models.create(session, world.service.settings, late, name="m", format="onnx", metadata={}, blob=blob)
            served.append(late)
    order = []
    for _ in range(4):
        claim = world.claim("inspect")
        assert claim is not None
        order.append(claim.project_id)
        _finish(world, claim.job_id, claim.fence)
    assert set(order[:3]) >= set(served), order
    assert order.count(world.project_id) == 2


def _finish(world: World, job_id: str, fence: int) -> None:
    with world.service.database.unit_of_work() as session:
        jobs.finish(session, job_id, fence, outcome=None, result={})
