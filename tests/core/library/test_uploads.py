"""Uploads in numbered parts, on both databases and both stores."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from core.access.projects import create, default
from core.database.clock import db_now
from core.database.tables import Upload, UploadPart
from core.errors import (
    ChecksumMismatch,
    DigestMismatch,
    MalformedRequest,
    NotFound,
    StorageFull,
    UploadClosed,
    UploadIncomplete,
    UploadTooLarge,
)
from core.library import models, uploads
from core.service import Service
from core.settings import Settings

PARTS = [b"a" * 2_500_000, b"b" * 1_500_000, b"c"]
WHOLE = b"".join(PARTS)


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The service over each database and each store."""
    more: dict[str, Any] = {}
    if request.param == "s3":
        for name, value in request.getfixturevalue("s3").items():
            monkeypatch.setenv(name, value)
        more["blob_url"] = f"s3://modelpress/{tmp_path.name}"
    settings = Settings(database_url=database_url, data_dir=tmp_path / "data", min_free_bytes=0, max_upload_bytes=5_000_000, **more)
    with Service.open(settings) as opened:
        yield opened


@pytest.fixture
def project(store: Service) -> str:
    """The default project's id."""
    with store.database.reader() as session:
        return default(session).id


def _put(store: Service, project: str, upload_id: str, number: int, content: bytes, sha256: str | None = None) -> UploadPart:
    with store.blobs.stage() as staged:
        staged.write(content)
        return store.uploads.put_part(project, upload_id, number, staged, sha256)


def test_parts_in_any_order_become_one_blob(store: Service, project: str) -> None:
    sha256 = hashlib.sha256(WHOLE).hexdigest()
    upload = store.uploads.create(project, filename="m.onnx", size_bytes=len(WHOLE), sha256=sha256).upload
    for number in (3, 1, 2):
        part = _put(store, project, upload.id, number, PARTS[number - 1], hashlib.sha256(PARTS[number - 1]).hexdigest())
        assert (part.number, part.size_bytes) == (number, len(PARTS[number - 1]))
    state = store.uploads.get(project, upload.id)
    assert uploads.body(state)["received_bytes"] == len(WHOLE)
    for _ in range(2):
        state = store.uploads.complete(project, upload.id)
        body = uploads.body(state)
        assert (body["status"], body["sha256"], body["received_bytes"]) == ("completed", sha256, len(WHOLE))
    with store.database.unit_of_work() as session:
        blob = uploads.blob_of(session, project, upload.id)
        model = models.create(session, store.settings, project, name="m", format="onnx", metadata={}, blob=blob)
    assert model.sha256 == sha256
    assert store.blobs.read_all(blob) == WHOLE
    assert store.blobs.store.names("uploads") == []


def test_a_part_can_be_sent_again(store: Service, project: str) -> None:
    upload = store.uploads.create(project).upload
    for content in (b"wrong", b"right", b"right"):
        _put(store, project, upload.id, 1, content)
    with store.database.unit_of_work() as session:
        store.uploads.complete(project, upload.id)
        assert store.blobs.read_all(uploads.blob_of(session, project, upload.id)) == b"right"
    assert store.blobs.store.names("uploads") == []


def test_a_damaged_part_is_refused_and_the_upload_goes_on(store: Service, project: str) -> None:
    upload = store.uploads.create(project).upload
    with pytest.raises(DigestMismatch):
        _put(store, project, upload.id, 1, b"damaged", hashlib.sha256(b"sent").hexdigest())
    assert store.uploads.get(project, upload.id).parts == []
    _put(store, project, upload.id, 1, b"sent", hashlib.sha256(b"sent").hexdigest())
    assert store.uploads.complete(project, upload.id).upload.status == "completed"


def _while_joining(store: Service, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Do something once, between the moment when completing has seen the list of parts and its first look at their bytes."""
    read, waiting = store.blobs.store.read, [act]

    def late(key: str, start: int, stop: int) -> bytes:
        if waiting:
            waiting.pop()()
        return read(key, start, stop)

    monkeypatch.setattr(store.blobs.store, "read", late)


def test_a_part_that_is_replaced_while_the_parts_are_joined_is_the_new_one(
    store: Service, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = store.uploads.create(project).upload
    for number, content in enumerate((b"one", b"two"), 1):
        _put(store, project, upload.id, number, content)
    _while_joining(store, monkeypatch, lambda: _put(store, project, upload.id, 2, b"three"))
    done = store.uploads.complete(project, upload.id).upload
    assert done.blob_sha256 == hashlib.sha256(b"onethree").hexdigest()
    assert store.blobs.store.names("uploads") == []


def test_completing_at_the_same_time_gives_both_the_same_answer(store: Service, project: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = store.uploads.create(project).upload
    _put(store, project, upload.id, 1, b"one")
    first: list[uploads.State] = []
    _while_joining(store, monkeypatch, lambda: first.append(store.uploads.complete(project, upload.id)))
    second = store.uploads.complete(project, upload.id)
    assert second.upload.blob_sha256 == first[0].upload.blob_sha256 == hashlib.sha256(b"one").hexdigest()


def test_an_upload_that_is_dropped_while_its_parts_are_joined_is_not_there(
    store: Service, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = store.uploads.create(project).upload
    _put(store, project, upload.id, 1, b"one")
    _while_joining(store, monkeypatch, lambda: store.uploads.drop(project, upload.id))
    with pytest.raises(NotFound):
        store.uploads.complete(project, upload.id)
    assert list(store.blobs.store.staging.iterdir()) == []


@pytest.mark.parametrize("fault", ["flipped", "gone"])
def test_a_part_that_the_store_damaged_is_named_and_can_be_sent_again(store: Service, project: str, fault: str, tmp_path: Path) -> None:
    upload = store.uploads.create(project).upload
    _put(store, project, upload.id, 1, b"one")
    key = _put(store, project, upload.id, 2, b"two").storage_key
    store.blobs.store.delete(key)
    if fault == "flipped":
        (tmp_path / "flipped").write_bytes(b"twn")
        store.blobs.store.publish(tmp_path / "flipped", key)
    with pytest.raises(ChecksumMismatch, match="part 2 are damaged"):
        store.uploads.complete(project, upload.id)
    _put(store, project, upload.id, 2, b"two")
    assert store.uploads.complete(project, upload.id).upload.blob_sha256 == hashlib.sha256(b"onetwo").hexdigest()
    assert list(store.blobs.store.staging.iterdir()) == []


def test_what_is_not_whole_is_not_completed(store: Service, project: str) -> None:
    upload = store.uploads.create(project, size_bytes=6).upload
    with pytest.raises(UploadIncomplete, match="part 1 is missing"):
        store.uploads.complete(project, upload.id)
    _put(store, project, upload.id, 1, b"abc")
    _put(store, project, upload.id, 3, b"ghi")
    with pytest.raises(UploadIncomplete, match="part 2 is missing"):
        store.uploads.complete(project, upload.id)
    _put(store, project, upload.id, 2, b"def")
    with pytest.raises(UploadIncomplete, match="9 of 6"):
        store.uploads.complete(project, upload.id)
    with store.database.reader() as session, pytest.raises(UploadIncomplete):
        uploads.blob_of(session, project, upload.id)


def test_another_whole_than_announced_is_refused(store: Service, project: str) -> None:
    upload = store.uploads.create(project, sha256="0" * 64).upload
    _put(store, project, upload.id, 1, b"abc")
    with pytest.raises(DigestMismatch):
        store.uploads.complete(project, upload.id)
    assert list(store.blobs.store.staging.iterdir()) == []


def test_limits(store: Service, project: str) -> None:
    with pytest.raises(UploadTooLarge):
        store.uploads.create(project, size_bytes=5_000_001)
    upload = store.uploads.create(project).upload
    for number in (0, 10_001):
        with pytest.raises(MalformedRequest):
            _put(store, project, upload.id, number, b"x")
    _put(store, project, upload.id, 1, b"x" * 4_000_000)
    with pytest.raises(UploadTooLarge):
        _put(store, project, upload.id, 2, b"x" * 1_000_001)
    assert [part.number for part in store.uploads.get(project, upload.id).parts] == [1]
    assert len(store.blobs.store.names("uploads")) == 1


def test_a_completed_upload_takes_no_more(store: Service, project: str) -> None:
    upload = store.uploads.create(project).upload
    _put(store, project, upload.id, 1, b"abc")
    store.uploads.complete(project, upload.id)
    with pytest.raises(UploadClosed):
        _put(store, project, upload.id, 2, b"def")
    assert store.blobs.store.names("uploads") == []


def test_dropped_and_expired_uploads_leave_nothing(store: Service, project: str) -> None:
    dropped, expired, alive = (store.uploads.create(project).upload.id for _ in range(3))
    for upload_id in (dropped, expired, alive):
        _put(store, project, upload_id, 1, upload_id.encode())
    store.uploads.drop(project, dropped)
    with store.database.unit_of_work() as session:
        session.execute(update(Upload).where(Upload.id == expired).values(expires_at=db_now(-1)))
    assert store.uploads.expire() == 1
    with store.database.reader() as session:
        assert list(session.scalars(select(UploadPart.upload_id))) == [alive]
    for gone in (dropped, expired):
        with pytest.raises(NotFound):
            store.uploads.get(project, gone)
    assert [alive in name for name in store.blobs.store.names("uploads")] == [True]


def test_uploads_of_other_projects_are_not_there(store: Service, project: str) -> None:
    with store.database.unit_of_work() as session:
        other = create(session, "other").id
    upload = store.uploads.create(project).upload
    _put(store, project, upload.id, 1, b"abc")
    for act in (store.uploads.get, store.uploads.complete, store.uploads.drop):
        with pytest.raises(NotFound):
            act(other, upload.id)
    with pytest.raises(NotFound):
        _put(store, other, upload.id, 1, b"abc")


def test_a_full_disk_is_said_before_the_first_part(sqlite_url: str, tmp_path: Path) -> None:
    with Service.open(Settings(database_url=sqlite_url, data_dir=tmp_path, min_free_bytes=2**60)) as service:
        with service.database.reader() as session:
            project = default(session).id
        with pytest.raises(StorageFull):
            service.uploads.create(project, size_bytes=1)


def test_parts_of_requests_that_died_are_removed(store: Service, project: str) -> None:
    upload = store.uploads.create(project).upload
    _put(store, project, upload.id, 1, b"abc")
    for folder in (upload.id, "upl_gone"):
        stray = store.blobs.store.staging / "stray"
        stray.write_bytes(b"stray")
        store.blobs.store.publish(stray, f"uploads/{folder}/00002-stray")
    store.uploads.expire()
    assert store.blobs.store.names("uploads/upl_gone") == []
    assert len(store.blobs.store.names(f"uploads/{upload.id}")) == 2
    store.uploads.complete(project, upload.id)
    assert store.blobs.store.names("uploads") == []
