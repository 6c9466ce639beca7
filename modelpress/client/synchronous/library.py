"""Written by `make docs` from the module of this name in `modelpress.client.asynchronous`; do not edit."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from modelpress.client import wire
from modelpress.client.errors import ConnectionFailed, TransferError, UploadInterrupted, WaitTimeout
from modelpress.client.synchronous.tools import beside, pause
from modelpress.client.synchronous.transport import Transport
from modelpress.client.wire import Call, Deadline, Parts, digest_header, keyed
from modelpress.resources.common import Page
from modelpress.resources.jobs import Artifact
from modelpress.resources.library import Dataset, Layer, Model, Preview
from modelpress.resources.uploads import Upload

Kind = TypeVar("Kind", Model, Dataset)
File = str | Path
_MOST_QUERY_CHARACTERS = 8 * 1024
"""Longer metadata go with the body of an upload in parts."""


class Uploads:
    """Files in numbered parts, over connections that break."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def send(self, path: File, *, upload_id: str | None = None) -> Upload:
        """Send a file in parts, and join them. With `upload_id` an earlier upload of the same file goes on: what has arrived is not sent again.

        Raises UploadInterrupted, which carries the `upload_id` to go on with, ApiError, TransferError, and OSError for a file that cannot be read.
        """
        parts = beside(Parts.of, Path(path))
        if upload_id is None:
            begun = {"filename": Path(path).name[:200], "size_bytes": parts.size_bytes}
            upload = self._transport.fetch(Upload, Call.of("POST", "/v1/uploads", begun))
        else:
            upload = self.get(upload_id)
        try:
            return self._fill(upload, parts)
        except ConnectionFailed as error:
            raise UploadInterrupted(f"{upload.id} was interrupted: {error}", upload.id) from error

    def _fill(self, upload: Upload, parts: Parts) -> Upload:
        arrived = {(part.number, part.sha256) for part in upload.parts}
        whole = hashlib.sha256()
        pieces = iter(parts)
        while (piece := beside(next, pieces, None)) is not None:
            number, data = piece
            beside(whole.update, data)
            digest = hashlib.sha256(data)
            if upload.status == "open" and (number, digest.hexdigest()) not in arrived:
                headers = digest_header(digest.digest())
                self._transport.send(Call("PUT", f"/v1/uploads/{upload.id}/parts/{number}", content=data, headers=headers))
        done = self._transport.fetch(Upload, Call("POST", f"/v1/uploads/{upload.id}/complete"))
        if done.sha256 != whole.hexdigest():
            raise TransferError(
                f"{upload.id} has the SHA-256 {done.sha256}, {parts.path} has {whole.hexdigest()}: the file changed meanwhile"
            )
        return done

    def get(self, upload_id: str) -> Upload:
        """Which parts have arrived."""
        return self._transport.fetch(Upload, Call("GET", f"/v1/uploads/{upload_id}"))

    def delete(self, upload_id: str) -> None:
        """Forget an upload; what was made of it stays."""
        self._transport.remove(f"/v1/uploads/{upload_id}")


class _Files(Generic[Kind]):
    """What models and datasets have in common."""

    _kind: type[Kind]
    _path: str

    def __init__(self, transport: Transport, uploads: Uploads) -> None:
        self._transport = transport
        self._uploads = uploads

    def upload(
        self,
        path: File,
        *,
        name: str | None = None,
        format: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        upload_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> Kind:
        """Send a file. A long one goes in parts, each verified by itself; `upload_id` goes on with one that was interrupted.

        Args:
            path: The file.
            name: How lists show it; by default the file's name without its ending.
            format: Told from the bytes where it is missing.
            metadata: What the service should know about it, such as `{"preprocessing": {"scale": 0.00392}}`.
            labels: Pairs to find it by.
            upload_id: Of an upload that raised UploadInterrupted.
            idempotency_key: Under one key a file is taken once, however often the call is made.

        Raises:
            ApiError: The service does not take it.
            UploadInterrupted, ConnectionFailed: The service does not answer.
        """
        file = Path(path)
        described = {"name": name or file.stem[:200], "format": format}
        stated = json.dumps(dict(metadata)) if metadata else None
        size = (beside(file.stat)).st_size
        if upload_id is None and size <= wire.PART_BYTES and len(stated or "") <= _MOST_QUERY_CHARACTERS:
            content = beside(file.read_bytes)
            headers = {
                "Content-Type": "application/octet-stream",
                **digest_header(hashlib.sha256(content).digest()),
                **keyed(idempotency_key),
            }
            pairs = tuple(f"{key}={value}" for key, value in (labels or {}).items())
            call = Call("POST", self._path, {**described, "metadata": stated, "label": pairs}, headers, content)
        else:
            finished = self._uploads.send(file, upload_id=upload_id)
            about = {"upload_id": finished.id, "metadata": dict(metadata or {}), "labels": dict(labels or {})}
            body = {**{key: value for key, value in described.items() if value}, **about}
            call = Call.of("POST", self._path, body, headers=keyed(idempotency_key))
        return self._transport.fetch(self._kind, call)

    def get(self, item_id: str) -> Kind:
        """One of them, with what its inspection found."""
        return self._transport.fetch(self._kind, Call("GET", f"{self._path}/{item_id}"))

    def inspected(self, item_id: str, *, timeout_seconds: float | None = None) -> Kind:
        """The same once its inspection has ended. Raises WaitTimeout."""
        deadline, seconds = Deadline(timeout_seconds), 0.2
        while (found := self.get(item_id)).status == "inspecting":
            if deadline.passed:
                raise WaitTimeout(f"{item_id} is still being inspected")
            pause(deadline.left(seconds))
            seconds = min(2 * seconds, 5.0)
        return found

    def list(self, *, label: Sequence[str] = (), **filters: Any) -> Iterator[Kind]:
        """Those of the project, newest first. Filters are those of the list: `name sha256 format created_after created_before sort`;
        `label` holds `key=value` or `key`, all must hold."""
        return self._transport.every(self._kind, Call("GET", self._path, {"label": tuple(label), "limit": 100, **filters}))

    def change(self, item_id: str, *, name: str | None = None, labels: Mapping[str, str | None] | None = None) -> Kind:
        """Give it another name, and other labels; a label of None is taken away."""
        body = {"labels": dict(labels or {})} | ({"name": name} if name else {})
        return self._transport.fetch(self._kind, Call.of("PATCH", f"{self._path}/{item_id}", body))

    def download(self, item_id: str, target: File) -> Path:
        """Save the uploaded file, byte for byte."""
        return self._transport.save(f"{self._path}/{item_id}/content", Path(target))

    def delete(self, item_id: str) -> None:
        """Remove it; jobs that have ended stay."""
        self._transport.remove(f"{self._path}/{item_id}")


class Models(_Files[Model]):
    """Neural networks."""

    _kind = Model
    _path = "/v1/models"

    def create(
        self,
        architecture: str | Mapping[str, Any],
        *,
        name: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Model:
        """An untrained network of a builtin architecture, such as `"lenet_300_100"` or `{"name": …, "params": {…}, "seed": 0}`."""
        stated = architecture if isinstance(architecture, str) else dict(architecture)
        body = {"architecture": stated, "metadata": dict(metadata or {}), "labels": dict(labels or {})} | ({"name": name} if name else {})
        return self._transport.fetch(Model, Call.of("POST", self._path, body, headers=keyed(idempotency_key)))

    def layers(self, model_id: str) -> Sequence[Layer]:
        """Every layer, with the names that `include` and `ignore` of a step take."""
        return (self._transport.fetch(Page[Layer], Call("GET", f"{self._path}/{model_id}/layers"))).data


class Datasets(_Files[Dataset]):
    """Examples."""

    _kind = Dataset
    _path = "/v1/datasets"

    def preview(self, dataset_id: str, *, split: str | None = None, limit: int = 8) -> Preview:
        """The first examples of each split."""
        return self._transport.fetch(Preview, Call("GET", f"{self._path}/{dataset_id}/preview", {"split": split, "limit": limit}))


class Artifacts:
    """Published files."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, label: Sequence[str] = (), **filters: Any) -> Iterator[Artifact]:
        """Artifacts of all jobs, newest first. Filters are those of the list: `filename name kind format sha256 job_id created_after
        created_before sort`; `label` holds `key=value` or `key`, all must hold."""
        return self._transport.every(Artifact, Call("GET", "/v1/artifacts", {"label": tuple(label), "limit": 100, **filters}))

    def change(self, artifact_id: str, *, name: str | None = None, labels: Mapping[str, str | None] | None = None) -> Artifact:
        """Give it a name, and labels; a label of None is taken away. Its bytes never change."""
        body = {"labels": dict(labels or {})} | ({"name": name} if name else {})
        return self._transport.fetch(Artifact, Call.of("PATCH", f"/v1/artifacts/{artifact_id}", body))

    def get(self, artifact_id: str) -> Artifact:
        """One artifact: size, hash, and what was measured on this very file."""
        return self._transport.fetch(Artifact, Call("GET", f"/v1/artifacts/{artifact_id}"))

    def download(self, artifact_id: str, target: File, *, sha256: str | None = None) -> Path:
        """Save the file, verified against its hash."""
        return self._transport.save(f"/v1/artifacts/{artifact_id}/content", Path(target), sha256=sha256)

    def download_subnet(self, artifact_id: str, target: File, **wanted: str | float) -> Path:
        """Save one setting of an artifact with several: `setting=`, `width=`, `max_latency_ms=` or `max_macs=`."""
        return self._transport.save(f"/v1/artifacts/{artifact_id}/subnet", Path(target), params=wanted)

    def promote(
        self,
        artifact_id: str,
        *,
        name: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        setting: str | None = None,
        idempotency_key: str | None = None,
    ) -> Model:
        """Make a model of an artifact, to compress it further."""
        body = {"name": name, "labels": dict(labels or {}), "metadata": None if metadata is None else dict(metadata), "setting": setting}
        stated = {key: value for key, value in body.items() if value is not None}
        call = Call.of("POST", f"/v1/artifacts/{artifact_id}/promote", stated, headers=keyed(idempotency_key))
        return self._transport.fetch(Model, call)
