"""Files that arrive in numbered parts, each verified on its own, so that a broken connection costs one part.

Parts are stored as they come, in any order and any number at a time; a part that is sent again replaces the earlier one. Completing
an upload reads them in the order of their numbers into one blob, which a model or a dataset is then made of.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from core import ids
from core.access import quotas
from core.blobs import Blob, Blobs, Staged
from core.blobs.ingest import BUFFER_BYTES
from core.database.clock import db_now, timestamp
from core.database.db import Database
from core.database.tables import Upload, UploadPart
from core.errors import ChecksumMismatch, MalformedRequest, NotFound, UploadClosed, UploadIncomplete, UploadTooLarge
from core.settings import Settings

MOST_PARTS = 10_000
_ROOT = "uploads"


@dataclass(frozen=True)
class State:
    """An upload and the parts that have arrived, by number."""

    upload: Upload
    parts: Sequence[UploadPart]


class Uploads:
    """Uploads in parts, over the database and the blob store."""

    def __init__(self, settings: Settings, database: Database, blobs: Blobs) -> None:
        self._settings = settings
        self._database = database
        self._blobs = blobs

    def create(self, project_id: str, *, filename: str | None = None, size_bytes: int | None = None, sha256: str | None = None) -> State:
        """Begin. The size and hash of the whole are checked at the end where they are given.

        Raises `upload_too_large`, `storage_full` and `quota_exceeded`.
        """
        if size_bytes is not None:
            self._check_size(size_bytes)
            self._blobs.check_room(2 * size_bytes)
        with self._database.unit_of_work() as session:
            upload = Upload(
                id=ids.new("upl"),
                project_id=project_id,
                filename=filename,
                size_bytes=size_bytes,
                expected_sha256=sha256,
                status="open",
                version=0,
                expires_at=db_now(self._settings.upload_expiry_seconds),
            )
            quotas.take_upload(session, project_id, size_bytes or 0)
            session.add(upload)
            session.flush()
            session.refresh(upload)
        return State(upload, [])

    def get(self, project_id: str, upload_id: str) -> State:
        """What has arrived so far. Raises `not_found`."""
        with self._database.reader() as session:
            return State(_find(session, project_id, upload_id), _parts(session, upload_id))

    def put_part(self, project_id: str, upload_id: str, number: int, staged: Staged, expected_sha256: str | None = None) -> UploadPart:
        """Take one part, numbered from 1. Raises `not_found`, `digest_mismatch`, `upload_closed`, `upload_too_large`
        and `quota_exceeded`; costs the same however many parts there are."""
        if not 1 <= number <= MOST_PARTS:
            raise MalformedRequest(f"parts are numbered from 1 to {MOST_PARTS}, got {number}", hint="send larger parts")
        with self._database.reader() as session:
            _require_open(_find(session, project_id, upload_id))
        blob = staged.finish(expected_sha256)
        # A name of its own for each try, so that a failed one can be removed whatever another one did.
        key = f"{_folder(upload_id)}/{number:05d}-{secrets.token_hex(8)}"
        self._blobs.store.publish(staged.path, key)
        try:
            with self._database.unit_of_work() as session:
                part, replaced = self._note_part(session, upload_id, number, key, blob)
        except BaseException:
            self._blobs.store.delete(key)
            raise
        if replaced is not None:
            self._blobs.store.delete(replaced)
        return part

    def _note_part(self, session: Session, upload_id: str, number: int, key: str, blob: Blob) -> tuple[UploadPart, str | None]:
        """Write the part down; returns it and the storage key of the part that it replaced."""
        touched = session.scalar(
            update(Upload)
            .where(Upload.id == upload_id, Upload.status == "open")
            .values(version=Upload.version + 1, expires_at=db_now(self._settings.upload_expiry_seconds))
            .returning(Upload)
        )
        if touched is None:
            raise UploadClosed(f"{upload_id} was completed or dropped meanwhile", hint="begin a new upload")
        # The row is locked from here on, so that no other part changes the sum.
        had = max(touched.received_bytes, touched.size_bytes or 0)
        part = session.get(UploadPart, (upload_id, number))
        replaced, before = (part.storage_key, part.size_bytes) if part is not None else (None, 0)
        if part is None:
            part = UploadPart(upload_id=upload_id, number=number)
            session.add(part)
        part.storage_key, part.size_bytes, part.sha256 = key, blob.size_bytes, blob.sha256
        touched.received_bytes += blob.size_bytes - before
        session.flush()
        self._check_size(touched.received_bytes)
        more = max(touched.received_bytes, touched.size_bytes or 0) - had
        if more > 0:
            # What was announced was taken when the upload began; the sum holds this part already.
            quotas.take_bytes(session, touched.project_id, 0)
        return part, replaced

    def complete(self, project_id: str, upload_id: str) -> State:
        """Join the parts. Doing it twice gives the same answer.

        Raises `upload_incomplete` when a part is missing or the size differs, `digest_mismatch`, `storage_full`, and `checksum_mismatch`
        when a stored part is no longer what arrived.
        """
        state = self.get(project_id, upload_id)
        if state.upload.status == "completed":
            return state
        _require_open(state.upload)
        _require_whole(state)
        self._blobs.check_room(sum(part.size_bytes for part in state.parts))
        with self._blobs.stage(limit_bytes=self._settings.max_upload_bytes) as staged:
            damaged = next((part.number for part in state.parts if not self._append(staged, part)), None)
            if damaged is None:
                blob = self._blobs.keep(staged, state.upload.expected_sha256)
        if damaged is not None:
            upload = self.get(project_id, upload_id).upload
            if (upload.status, upload.version) == ("open", state.upload.version):
                raise ChecksumMismatch(
                    f"the stored bytes of part {damaged} are damaged or gone", hint=f"PUT /v1/uploads/{upload_id}/parts/{damaged} again"
                )
            # The part was removed while this one was reading: it was replaced, or another request completed the upload.
            return self.complete(project_id, upload_id)
        with self._database.unit_of_work() as session:
            done = session.scalar(
                update(Upload)
                .where(Upload.id == upload_id, Upload.status == "open", Upload.version == state.upload.version)
                .values(status="completed", blob_sha256=blob.sha256, expires_at=db_now(self._settings.upload_expiry_seconds))
                .returning(Upload.id)
            )
            if done is not None:
                session.execute(delete(UploadPart).where(UploadPart.upload_id == upload_id))
        if done is None:
            # Another request completed it, or a part was replaced while this one was reading.
            return self.complete(project_id, upload_id)
        self._remove(upload_id)
        return self.get(project_id, upload_id)

    def drop(self, project_id: str, upload_id: str) -> None:
        """Forget an upload and its parts; a blob that was made of it stays while something uses it. Raises `not_found`."""
        with self._database.unit_of_work() as session:
            _find(session, project_id, upload_id)
            session.execute(delete(Upload).where(Upload.id == upload_id))
        self._remove(upload_id)

    def expire(self) -> int:
        """Forget uploads that got no part for a long time, and parts that belong to no upload; returns how many uploads."""
        with self._database.unit_of_work() as session:
            overdue = list(session.scalars(delete(Upload).where(Upload.expires_at < db_now()).returning(Upload.id)))
        kept = {folder.rpartition("/")[2] for folder in self._blobs.store.folders(_ROOT)}
        with self._database.reader() as session:
            open_ = set(session.scalars(select(Upload.id).where(Upload.status == "open")))
        for upload_id in kept - open_:
            self._remove(upload_id)
        return len(overdue)

    def _append(self, staged: Staged, part: UploadPart) -> bool:
        """Write a stored part to the end of the whole; False when its bytes are gone, or are not those that arrived."""
        digest = hashlib.sha256()
        for start in range(0, part.size_bytes, BUFFER_BYTES):
            try:
                data = self._blobs.store.read(part.storage_key, start, min(start + BUFFER_BYTES, part.size_bytes))
            except FileNotFoundError:
                return False
            digest.update(data)
            staged.write(data)
        return digest.hexdigest() == part.sha256

    def _remove(self, upload_id: str) -> None:
        """Remove every stored part, also those of requests that died before they were written down."""
        for key in self._blobs.store.names(_folder(upload_id)):
            self._blobs.store.delete(key)

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._settings.max_upload_bytes:
            raise UploadTooLarge(
                f"{size_bytes} bytes are more than {self._settings.max_upload_bytes}", hint="the operator sets MODELPRESS_MAX_UPLOAD_BYTES"
            )


def blob_of(session: Session, project_id: str, upload_id: str) -> Blob:
    """The bytes of a completed upload. Raises `not_found` and `upload_incomplete`."""
    upload = _find(session, project_id, upload_id)
    if upload.status != "completed":
        raise UploadIncomplete(f"{upload_id} is {upload.status}", hint=f"POST /v1/uploads/{upload_id}/complete first")
    return Blob.load(session, upload.blob_sha256)


def body(state: State) -> dict[str, Any]:
    """The upload object of the public contract."""
    upload, path = state.upload, f"/v1/uploads/{state.upload.id}"
    return {
        "object": "upload",
        "id": upload.id,
        "filename": upload.filename,
        "status": upload.status,
        "size_bytes": upload.size_bytes,
        "received_bytes": upload.size_bytes if upload.status == "completed" else sum(part.size_bytes for part in state.parts),
        "sha256": upload.blob_sha256 or upload.expected_sha256,
        "parts": [part_body(part) for part in state.parts],
        "created_at": timestamp(upload.created_at),
        "expires_at": timestamp(upload.expires_at),
        "urls": {"self": path, "complete": f"{path}/complete"},
    }


def part_body(part: UploadPart) -> dict[str, Any]:
    """One part."""
    return {"number": part.number, "size_bytes": part.size_bytes, "sha256": part.sha256}


def _find(session: Session, project_id: str, upload_id: str) -> Upload:
    upload = session.scalars(select(Upload).where(Upload.id == upload_id, Upload.project_id == project_id)).one_or_none()
    if upload is None:
        raise NotFound(f"there is no upload {upload_id!r} in this project", hint="an upload without a new part is dropped after a day")
    return upload


def _parts(session: Session, upload_id: str) -> list[UploadPart]:
    return list(session.scalars(select(UploadPart).where(UploadPart.upload_id == upload_id).order_by(UploadPart.number)))


def _folder(upload_id: str) -> str:
    return f"{_ROOT}/{upload_id}"


def _require_open(upload: Upload) -> None:
    if upload.status != "open":
        raise UploadClosed(f"{upload.id} is {upload.status}", hint="begin a new upload")


def _require_whole(state: State) -> None:
    numbers = [part.number for part in state.parts]
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        missing = next(number for number in range(1, len(numbers) + 2) if number not in numbers)
        raise UploadIncomplete(f"part {missing} is missing", hint=f"PUT /v1/uploads/{state.upload.id}/parts/{missing}")
    received = sum(part.size_bytes for part in state.parts)
    if state.upload.size_bytes is not None and received != state.upload.size_bytes:
        raise UploadIncomplete(f"{received} of {state.upload.size_bytes} bytes have arrived", hint="send the missing parts")
