"""The way of a file into the service: received in constant memory, compared with its digest, looked at, and only then kept.

Longer than others: a file comes as a body, from an upload, from an address or as an architecture's first weights, and each goes the same way.
"""

import contextlib
import io
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import IO, Annotated, Any

from fastapi import Query, Request
from starlette.concurrency import run_in_threadpool

from api.examples import EXAMPLES
from api.http import documents, problems
from api.http.beside import beside
from api.http.conditional import Digests
from api.http.content import BlobFile
from api.http.errors import InvalidBody, InvalidMetadata, Refused, UnsupportedMediaType
from api.http.headers import documented
from api.http.named import FinishedUpload, NamedFile, NamedModel
from api.http.remote import fetched, name_of
from api.http.validation import checked
from api.http.words import PRINTABLE
from core.access import quotas
from core.blobs import Blob, Staged
from core.library import uploads
from core.service import Service
from engine.architectures.spec import read_architecture
from engine.contract import file_format
from engine.contract.errors import EngineError
from engine.contract.metadata import DatasetMetadata, ModelMetadata
from engine.files import effort, magic
from engine.files.architecture import Description

Name = Annotated[
    str | None, Query(max_length=200, pattern=PRINTABLE, description="How lists show it; the file's hash where it is missing.")
]
Metadata = Annotated[
    str | None,
    Query(
        max_length=16 * 1024, description="URL-encoded JSON. More than this: upload in parts, and send it with the body.", examples=["{}"]
    ),
]


@dataclass(frozen=True)
class Kind:
    """What models and datasets do not share."""

    noun: file_format.Kind
    metadata: type[ModelMetadata | DatasetMetadata]
    bodies: tuple[tuple[type[FinishedUpload | NamedFile | NamedModel], dict[str, Any]], ...]
    """JSON bodies, each with an example."""

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats in which such a file may come."""
        return file_format.names(self.noun)


_EFFORT, _EFFORT_SECONDS = 250_000, 2.0
"""What looking at one file may cost in this process: a model of 50,000 weights, or an archive of 10,000 members."""
_UPLOADED = {"upload_id": EXAMPLES["upload"]}
_DRAWN = {"name": "lenet", "architecture": {"name": "lenet_300_100", "params": {"num_classes": 10}, "seed": 0}}
_FETCHED = {"uri": "https://example.org/data.npz", "sha256": None}
MODELS = Kind(
    "model",
    ModelMetadata,
    ((FinishedUpload, _UPLOADED | {"name": "my model"}), (NamedModel, _DRAWN), (NamedFile, _FETCHED | {"uri": "s3://models/net.onnx"})),
)
DATASETS = Kind("dataset", DatasetMetadata, ((FinishedUpload, _UPLOADED | {"name": "my dataset"}), (NamedFile, _FETCHED)))


@dataclass(frozen=True)
class Declared:
    """What the client declares about the file."""

    name: str | None
    format: str | None
    metadata: ModelMetadata | DatasetMetadata
    labels: Mapping[str, str] = field(default_factory=dict)

    def labelled(self, given: Mapping[str, str]) -> "Declared":
        """The same, with further labels."""
        return replace(self, labels={**self.labels, **given})


@dataclass(frozen=True)
class Taken:
    """A file that is in the blob store, with all that is known of it."""

    name: str
    format: str
    metadata: dict[str, Any]
    blob: Blob
    labels: Mapping[str, str] = field(default_factory=dict)


async def take(request: Request, service: Service, project_id: str, kind: Kind, declared: Declared) -> Taken:
    """Bring the request's file into the blob store, whether the body carries it or names a finished upload, a URI or an architecture.

    Nothing is left behind when anything is wrong, or when the client goes away. Raises `upload_too_large`, `storage_full`,
    `digest_mismatch`, `unsupported_media_type`, `not_found`, `upload_incomplete`, and what `engine.files.magic` finds.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type in documents.JSON_TYPES:
        body = await documents.read_body(request, service.settings.max_spec_bytes)
        named = await beside(_named, body, media_type, kind, declared, quick=documents.is_quick(body, media_type))
        if isinstance(named, Drawn):
            return await _from_architecture(service, named)
        if isinstance(named, Remote):
            await run_in_threadpool(_check_share, service, project_id, 0)
            with request.state.held.upload():
                return await _from_uri(service, project_id, kind, named)
        return await beside(_from_upload, service, project_id, kind, named)
    if media_type.startswith("multipart/"):
        raise UnsupportedMediaType("an upload is the file itself, not a form", hint="curl --data-binary @file instead of -F")
    documents.refuse_compression(request)
    digests = Digests.sent(request.headers)
    announced = request.headers.get("content-length")
    await run_in_threadpool(_check_share, service, project_id, int(announced) if announced else 0)
    with request.state.held.upload():
        staged = await service.blobs.receive(
            _sniffed(request.stream(), declared.format, kind),
            limit_bytes=service.settings.max_upload_bytes,
            size_bytes=int(announced) if announced else None,
        )
    return await run_in_threadpool(_keep, service, staged, digests, kind, declared)


def _check_share(service: Service, project_id: str, size_bytes: int) -> None:
    """Refuse what does not fit into the project's share before it is sent; it is taken when the file is whole."""
    with service.database.reader() as session:
        quotas.check_bytes(session, project_id, size_bytes)


async def _sniffed(stream: AsyncIterator[bytes], declared: str | None, kind: Kind) -> AsyncIterator[bytes]:
    """The stream, which ends with an error as soon as its first bytes are those of a file that is not taken."""
    head = b""
    async for part in stream:
        if len(head) < magic.SNIFF_BYTES:
            head += part[: magic.SNIFF_BYTES - len(head)]
            if len(head) == magic.SNIFF_BYTES:
                _sniff(head, declared, kind)
        yield part


def _keep(service: Service, staged: Staged, digests: Digests, kind: Kind, declared: Declared) -> Taken:
    with staged:
        blob = staged.finish()
        digests.check(blob.sha256, staged.path)
        with staged.path.open("rb") as file:
            found, metadata = _look(file, declared, kind)
        service.blobs.keep(staged)
    return Taken(declared.name or blob.sha256[:12], found, metadata, blob, declared.labels)


@dataclass(frozen=True)
class Drawn:
    """A body that names an architecture, as the file that describes it."""

    declared: Declared
    data: bytes


@dataclass(frozen=True)
class Finished:
    """A body that names a finished upload."""

    declared: Declared
    upload_id: str


@dataclass(frozen=True)
class Remote:
    """A body that names a URI."""

    declared: Declared
    uri: str
    digests: Digests


def _named(body: bytes, media_type: str, kind: Kind, declared: Declared) -> Drawn | Finished | Remote:
    """What a JSON body names instead of carrying a file; its fields take precedence over the query's."""
    document = documents.parse(body, media_type, most_values=documents.MAX_METADATA_VALUES)
    if kind is MODELS and isinstance(document, dict) and "architecture" in document:
        model = checked(NamedModel, document, InvalidBody)
        with _refusing():
            data = Description.of(model.architecture).to_bytes()
        metadata = check_metadata(model.metadata, MODELS) if model.metadata else declared.metadata
        return Drawn(Declared(model.name or declared.name, declared.format, metadata, {**declared.labels, **model.labels}), data)
    if isinstance(document, dict) and "uri" in document:
        file = checked(NamedFile, document, InvalidBody)
        metadata = check_metadata(file.metadata, kind) if file.metadata else declared.metadata
        digests = Digests({"sha-256": bytes.fromhex(file.sha256)} if file.sha256 else {})
        name = file.name or declared.name or name_of(file.uri)
        return Remote(Declared(name, file.format or declared.format, metadata, {**declared.labels, **file.labels}), file.uri, digests)
    upload = checked(FinishedUpload, document, InvalidBody)
    metadata = check_metadata(upload.metadata, kind) if upload.metadata else declared.metadata
    labels = {**declared.labels, **upload.labels}
    return Finished(Declared(upload.name or declared.name, upload.format or declared.format, metadata, labels), upload.upload_id)


async def _from_architecture(service: Service, drawn: Drawn) -> Taken:
    async def body() -> AsyncIterator[bytes]:
        yield drawn.data

    staged = await service.blobs.receive(body(), limit_bytes=service.settings.max_upload_bytes, size_bytes=len(drawn.data))
    return await run_in_threadpool(_keep, service, staged, Digests({}), MODELS, drawn.declared)


async def _from_uri(service: Service, project_id: str, kind: Kind, named: Remote) -> Taken:
    async with fetched(named.uri, service, project_id) as answer:
        await run_in_threadpool(_check_share, service, project_id, answer.size_bytes or 0)
        body = _sniffed(answer.chunks, named.declared.format, kind)
        staged = await service.blobs.receive(body, limit_bytes=service.settings.max_upload_bytes, size_bytes=answer.size_bytes)
    return await run_in_threadpool(_keep, service, staged, named.digests, kind, named.declared)


def _from_upload(service: Service, project_id: str, kind: Kind, named: Finished) -> Taken:
    with service.database.reader() as session:
        blob = uploads.blob_of(session, project_id, named.upload_id)
    declared = named.declared
    with io.BufferedReader(BlobFile(service.blobs, blob)) as file:
        found, metadata = _look(file, declared, kind)
    return Taken(declared.name or blob.sha256[:12], found, metadata, blob, declared.labels)


def _sniff(head: bytes, declared: str | None, kind: Kind) -> str:
    """The format that the first bytes show."""
    with _refusing():
        found = magic.sniff(head, declared)
    check_format(found, kind)
    return found


def _look(file: IO[bytes], declared: Declared, kind: Kind) -> tuple[str, dict[str, Any]]:
    """The format of a file that is whole and harmless as far as its bytes show, and its metadata with the architecture that it names."""
    found = file_format.catalogue()[_sniff(file.read(magic.SNIFF_BYTES), declared.format, kind)]
    stated = declared.metadata
    with _refusing():
        with contextlib.suppress(effort.Unfinished), effort.at_most(_EFFORT, _EFFORT_SECONDS):
            # What is not seen to its end here is seen by the sandboxed inspection.
            magic.check_file(file, found.name)
        if isinstance(stated, ModelMetadata):
            if found.metadata is not None:
                file.seek(0)
                stated = found.metadata(file, stated)
            described = found.describes_itself is not None and found.describes_itself(file)
            if stated.architecture is not None or not (found.has_structure or described):
                read_architecture(stated.architecture)
    return found.name, stored(stated)


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """What the engine finds wrong, as an answer."""
    try:
        yield
    except EngineError as error:
        raise Refused(error.code, error.message, hint=error.hint) from error


def declared_as(kind: Kind) -> Callable[..., Declared]:
    """A dependency that reads what the query declares about an upload, before a byte of its body is read."""
    listed = Query(description="Told from the bytes where it is missing.", json_schema_extra={"enum": list(kind.formats)})

    def declared(name: Name = None, format: Annotated[str | None, listed] = None, metadata: Metadata = None) -> Declared:
        if format is not None:
            check_format(format, kind)
        document = documents.parse(metadata.encode("utf-8", "replace"), "application/json", what="`metadata`") if metadata else {}
        return Declared(name, format, check_metadata(document, kind))

    return declared


def check_format(format: str, kind: Kind) -> None:
    """Raises `unsupported_format` for a format that models or datasets do not have."""
    if format not in kind.formats:
        hint = f"formats of a {kind.noun}: {', '.join(kind.formats)}"
        raise Refused("unsupported_format", f"{format[:80]!r} is no format of a {kind.noun}", hint=hint)


def check_metadata(document: Any, kind: Kind) -> ModelMetadata | DatasetMetadata:
    """Validated metadata. Raises `invalid_metadata`."""
    return checked(kind.metadata, document, InvalidMetadata, "/metadata")


def stored(metadata: ModelMetadata | DatasetMetadata) -> dict[str, Any]:
    """Metadata as JSON types, without what was left out."""
    return metadata.model_dump(mode="json", exclude_unset=True)


def request_body(kind: Kind) -> dict[str, Any]:
    """The `openapi_extra` of a route that takes an upload."""
    schemas = [body.model_json_schema() for body, _ in kind.bodies]
    return {
        **documented("Content-Digest"),
        "requestBody": {
            "required": True,
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary", "description": f"The {kind.noun}'s file."}},
                "application/json": {
                    "schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas},
                    "examples": {f"example {number}": {"value": body} for number, (_, body) in enumerate(kind.bodies, start=1)},
                },
            },
        },
    }


REFUSALS = problems.responses(400, 404, 409, 413, 415, 422, 429, 502, 507)
"""What an upload may be answered with."""
