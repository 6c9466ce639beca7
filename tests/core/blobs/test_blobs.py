"""One contract for the local folder and S3: what goes in comes out, damaged bytes do not, full disks leave nothing behind."""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import func, select, update

from core.access.projects import default
from core.blobs import CHUNK_BYTES, Blob, Blobs
from core.blobs.digest import Digester
from core.blobs.ingest import key_of
from core.blobs.store import open_store
from core.database.clock import db_now
from core.database.db import Database
from core.database.tables import StoredBlob
from core.errors import ChecksumMismatch, DigestMismatch, StorageFull, Unavailable, UploadTooLarge
from core.library import models
from core.settings import Settings

CONTENT = bytes(range(256)) * 10_000 + b"tail"


@pytest.fixture(params=["local", "s3"])
def blobs(request: pytest.FixtureRequest, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Blobs]:
    """The blobs of an empty store of each kind."""
    url = (tmp_path / "blobs").as_uri()
    if request.param == "s3":
        for name, value in request.getfixturevalue("s3").items():
            monkeypatch.setenv(name, value)
        url = f"s3://modelpress/{tmp_path.name}"
    settings = Settings(database_url=sqlite_url, blob_url=url, data_dir=tmp_path / "data", min_free_bytes=0, blob_grace_seconds=60)
    database = Database(settings)
    yield Blobs(settings, database)
    database.close()


def _damage(blobs: Blobs, blob: Blob, position: int) -> None:
    """Flip one bit of the stored bytes, behind the service's back."""
    content = bytearray(blobs.store.read(key_of(blob.sha256), 0, blob.size_bytes))
    content[position] ^= 1
    blobs.store.delete(key_of(blob.sha256))
    staged = blobs.store.staging / "damaged"
    staged.write_bytes(content)
    blobs.store.publish(staged, key_of(blob.sha256))


def _staged_files(blobs: Blobs) -> list[Path]:
    return list(blobs.store.staging.iterdir())


def test_what_goes_in_comes_out(blobs: Blobs, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    with source.open("rb") as file:
        blob = blobs.put_file(file, hashlib.sha256(CONTENT).hexdigest())
    assert (blob.sha256, blob.size_bytes) == (hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
    assert blobs.read_all(blob) == CONTENT
    target = tmp_path / "target"
    blobs.fetch(blob, target)
    assert target.read_bytes() == CONTENT
    with pytest.raises(FileExistsError):
        blobs.fetch(blob, target)
    assert target.read_bytes() == CONTENT
    assert source.read_bytes() == CONTENT
    assert _staged_files(blobs) == []


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        (0, 0),
        (0, 1),
        (CHUNK_BYTES - 1, CHUNK_BYTES + 1),
        (CHUNK_BYTES, 2 * CHUNK_BYTES),
        (7, 2_000_000),
        (len(CONTENT) - 1, len(CONTENT) + 9),
    ],
)
def test_ranges(blobs: Blobs, start: int, stop: int) -> None:
    blob = blobs.put_bytes(CONTENT)
    assert b"".join(blobs.read(blob, start, stop)) == CONTENT[start:stop]


def test_an_empty_blob(blobs: Blobs, tmp_path: Path) -> None:
    blob = blobs.put_bytes(b"")
    assert blob.sha256 == hashlib.sha256().hexdigest()
    assert blobs.read_all(blob) == b""
    blobs.fetch(blob, tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == b""


def test_the_same_bytes_are_stored_once(blobs: Blobs) -> None:
    assert blobs.put_bytes(CONTENT) == blobs.put_bytes(CONTENT)
    with blobs.database.reader() as session:
        assert session.scalar(select(func.count()).select_from(StoredBlob)) == 1


@pytest.mark.parametrize("position", [0, CHUNK_BYTES + 5, len(CONTENT) - 1])
def test_a_flipped_bit_is_never_served(blobs: Blobs, tmp_path: Path, position: int) -> None:
    blob = blobs.put_bytes(CONTENT)
    _damage(blobs, blob, position)
    with pytest.raises(ChecksumMismatch):
        blobs.read_all(blob)
    with pytest.raises(ChecksumMismatch):
        b"".join(blobs.read(blob, position, position + 1))
    with pytest.raises(ChecksumMismatch):
        blobs.fetch(blob, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    served = b""
    pieces = blobs.read(blob)
    with pytest.raises(ChecksumMismatch):  # noqa: PT012 - what was served before counts
        for piece in pieces:
            served += piece
    assert CONTENT.startswith(served)
    assert len(served) <= position


def test_missing_and_cut_bytes_are_damage(blobs: Blobs) -> None:
    blob = blobs.put_bytes(CONTENT)
    staged = blobs.store.staging / "cut"
    staged.write_bytes(CONTENT[:-1])
    blobs.store.delete(key_of(blob.sha256))
    blobs.store.publish(staged, key_of(blob.sha256))
    with pytest.raises(ChecksumMismatch):
        blobs.read_all(blob)
    blobs.store.delete(key_of(blob.sha256))
    with pytest.raises(ChecksumMismatch):
        blobs.read_all(blob)
    blobs.store.delete(key_of(blob.sha256))


def test_uploading_again_heals_lost_bytes(blobs: Blobs) -> None:
    blob = blobs.put_bytes(CONTENT)
    blobs.store.delete(key_of(blob.sha256))
    blobs.put_bytes(CONTENT)
    assert blobs.read_all(blob) == CONTENT


def test_other_bytes_than_announced_are_refused(blobs: Blobs, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"these bytes")
    with pytest.raises(DigestMismatch), source.open("rb") as file:
        blobs.put_file(file, "0" * 64)
    assert _staged_files(blobs) == []
    assert blobs.store.size(key_of(hashlib.sha256(b"these bytes").hexdigest())) is None


def test_unused_blobs_are_removed_after_their_grace(blobs: Blobs, tmp_path: Path) -> None:
    used, unused, fresh = (blobs.put_bytes(content) for content in (b"used", b"unused", b"fresh"))
    settings = Settings(data_dir=tmp_path)
    with blobs.database.unit_of_work() as session:
        models.create(session, settings, default(session).id, name="m", format="onnx", metadata={}, blob=used)
        old = StoredBlob.sha256.in_([used.sha256, unused.sha256])
        session.execute(update(StoredBlob).where(old).values(touched_at=db_now(-61)))
    assert blobs.collect() == 1
    assert blobs.collect() == 0
    assert blobs.read_all(used) == b"used"
    assert blobs.read_all(fresh) == b"fresh"
    assert blobs.store.size(key_of(unused.sha256)) is None
    assert blobs.read_all(blobs.put_bytes(b"unused")) == b"unused"


def test_staged_files_of_dead_processes_are_swept_and_forged_times_remove_no_living_one(blobs: Blobs) -> None:
    dead = blobs.store.staging / "in-dead"
    dead.write_bytes(b"x")
    os.utime(dead, (0, 0))
    assert blobs.sweep_staging() == 0  # it looks old and is not
    impatient = Blobs(blobs._settings.model_copy(update={"staging_expiry_seconds": 0.05}), blobs.database)
    with blobs.stage() as alive:
        alive.write(b"whole")
        alive.finish()
        time.sleep(0.1)
        os.utime(alive.path, (0, 0))
        time.sleep(0.1)
        assert impatient.sweep_staging() == 1
        assert _staged_files(blobs) == [alive.path]
        assert blobs.read_all(blobs.keep(alive)) == b"whole"


async def _stream(parts: list[bytes], then: BaseException | None = None) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
        await asyncio.sleep(0)
    if then is not None:
        raise then


def test_a_stream_is_received(blobs: Blobs) -> None:
    parts = [CONTENT[index : index + 65_536] for index in range(0, len(CONTENT), 65_536)] * 3

    async def receive() -> Blob:
        with await blobs.receive(_stream(parts), limit_bytes=10 * len(CONTENT), size_bytes=3 * len(CONTENT)) as staged:
            assert staged.head == CONTENT[:4096]
            return await asyncio.to_thread(blobs.keep, staged)

    blob = asyncio.run(receive())
    assert blobs.read_all(blob) == CONTENT * 3


@pytest.mark.parametrize(
    ("parts", "then", "error"),
    [([b"x" * 3_000_000] * 3, None, UploadTooLarge), ([b"x" * 3_000_000], ConnectionResetError(), ConnectionResetError)],
)
def test_a_broken_stream_leaves_nothing(blobs: Blobs, parts: list[bytes], then: BaseException | None, error: type[BaseException]) -> None:
    with pytest.raises(error):
        asyncio.run(blobs.receive(_stream(parts, then), limit_bytes=5_000_000))
    assert _staged_files(blobs) == []


def test_an_announced_size_is_checked_before_the_first_byte(blobs: Blobs) -> None:
    def never() -> AsyncIterator[bytes]:
        raise AssertionError("the stream was read")

    class Stream:
        __aiter__ = staticmethod(never)

    with pytest.raises(UploadTooLarge):
        asyncio.run(blobs.receive(Stream(), limit_bytes=10, size_bytes=11))  # type: ignore[arg-type]
    with pytest.raises(StorageFull):
        asyncio.run(blobs.receive(Stream(), limit_bytes=2**60, size_bytes=2**55))  # type: ignore[arg-type]


def test_a_disk_below_its_watermark_takes_nothing(sqlite_url: str, tmp_path: Path) -> None:
    settings = Settings(database_url=sqlite_url, data_dir=tmp_path / "data", min_free_bytes=2**60)
    database = Database(settings)
    blobs = Blobs(settings, database)
    with pytest.raises(StorageFull):
        blobs.put_bytes(b"x")
    assert _staged_files(blobs) == []
    database.close()


def test_a_missing_bucket_is_not_taken_for_missing_bytes(monkeypatch: pytest.MonkeyPatch, s3: dict[str, str], tmp_path: Path) -> None:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    store = open_store("s3://no-such-bucket", tmp_path)
    staged = tmp_path / "staged"
    staged.write_bytes(b"x")
    with pytest.raises(Unavailable, match="bucket"):
        store.publish(staged, "a/b")
    with pytest.raises(Unavailable, match="bucket"):
        store.read("a/b", 0, 1)


def test_only_s3_signs(blobs: Blobs) -> None:
    import urllib.request

    blob = blobs.put_bytes(b"signed")
    url = blobs.signed_url(blob)
    if url is None:
        assert type(blobs.store).__name__ == "LocalBlobStore"
        return
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"signed"


def test_an_unknown_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="file:/// or s3://"):
        open_store("ftp://host/x", tmp_path)


@hypothesis_settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 2 * CHUNK_BYTES + 1), max_size=6))
def test_digests_do_not_depend_on_how_the_bytes_arrive(sizes: list[int]) -> None:
    content = bytes(sum(sizes))
    split, whole = Digester(), Digester()
    for size in sizes:
        split.update_whole(bytes(size))
        split.update_chunks(bytes(size))
    whole.update_whole(content)
    whole.update_chunks(content)
    assert split.finish() == whole.finish()
    assert len(whole.finish().chunk_digests) == 16 * -(-len(content) // CHUNK_BYTES)
