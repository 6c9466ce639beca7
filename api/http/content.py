"""Files as responses: ranges, conditional requests and digests over immutable, content-addressed bytes."""

import hashlib
import io
import re
import secrets
import unicodedata
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Protocol
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from api.http import conditional, headers, problems, ranges
from api.http.coding import MIN_BYTES, chosen, packed
from api.http.conditional import tagged
from api.http.errors import RangeNotSatisfiable
from api.http.gone import until_gone
from core.blobs import Blob, Blobs
from core.blobs.digest import CHUNK_BYTES
from core.errors import ChecksumMismatch
from core.logging import logger
from core.service import Service

_log = logger(__name__)


VARIES = {"Vary": "accept-encoding"}
_PIECE_BYTES = 128 * 1024


class Source(Protocol):
    """Bytes with a known size and hash."""

    size_bytes: int
    sha256: str

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from `start` to before `stop`, in chunks of about a MiB, verified before they are handed out."""
        ...


class Stored:
    """A blob in its store."""

    def __init__(self, blobs: Blobs, blob: Blob) -> None:
        self._blobs = blobs
        self._blob = blob
        self.size_bytes = blob.size_bytes
        self.sha256 = blob.sha256

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """Verified chunks."""
        return self._blobs.read(self._blob, start, stop)


class InMemory:
    """Bytes that were made for this answer."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size_bytes = len(content)
        self.sha256 = hashlib.sha256(content).hexdigest()

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """One chunk."""
        yield self._content[start:stop]


class BlobFile(io.RawIOBase):
    """A stored blob as a file to seek and read in."""

    def __init__(self, blobs: Blobs, blob: Blob) -> None:
        self._source = Stored(blobs, blob)
        self._position = 0
        self._chunk: tuple[int, bytes] = (-1, b"")
        """The chunk that was read last: whoever walks a file by small steps reads and verifies each chunk once."""

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size_bytes}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as its chunk of the blob goes."""
        index, within = divmod(self._position, CHUNK_BYTES)
        if self._position >= self._source.size_bytes:
            return 0
        if self._chunk[0] != index:
            first = index * CHUNK_BYTES
            self._chunk = (index, b"".join(self._source.read(first, min(first + CHUNK_BYTES, self._source.size_bytes))))
        piece = self._chunk[1][within : within + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)


class ContentResponse(Response):
    """The whole file (200), pieces of it (206), or the word that the client has it already (304); HEAD sends no bytes.

    The ETag is the file's SHA-256 unless another is given; with a `filename` browsers save it. `named` are further headers.
    Raises `range_not_satisfiable` and `etag_mismatch`.
    """

    def __init__(
        self,
        request: Request,
        source: Source,
        *,
        filename: str | None = None,
        media_type: str = "application/octet-stream",
        etag: str | None = None,
        named: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.source = source
        self.background = None
        self.status_code = 200
        etag = etag or f'"{source.sha256}"'
        named = {"ETag": etag, "Cache-Control": "private, no-cache", **named}
        self.pieces: list[tuple[bytes, int, int]] = []
        """What to send: bytes that go before, first byte of the file, byte after the last."""
        if conditional.not_modified(request.headers, etag):
            self.status_code = 304
        else:
            named |= {
                "Accept-Ranges": "bytes",
                "Repr-Digest": conditional.digest_header(source.sha256),
                "Content-Type": media_type,
            }
            if filename is not None:
                named["Content-Disposition"] = disposition(filename)
            self._choose(request, etag, named)
        self.init_headers(named)

    def _choose(self, request: Request, etag: str, named: dict[str, str]) -> None:
        size = self.source.size_bytes
        if_range = request.headers.get("if-range")
        wanted = request.headers.get("range") if if_range is None or if_range.strip() == etag else None
        try:
            found = ranges.parse(wanted, size)
        except ranges.Unsatisfiable:
            raise RangeNotSatisfiable(f"the file has {size} bytes", size_bytes=size) from None
        if found:
            self.status_code = 206
        if len(found) == 1:
            named["Content-Range"] = f"bytes {found[0][0]}-{found[0][1] - 1}/{size}"
        if len(found) > 1:
            boundary = secrets.token_hex(16)
            part_type, named["Content-Type"] = named["Content-Type"], f"multipart/byteranges; boundary={boundary}"
            for start, stop in found:
                head = f"\r\n--{boundary}\r\nContent-Type: {part_type}\r\nContent-Range: bytes {start}-{stop - 1}/{size}\r\n\r\n"
                self.pieces.append((head.encode(), start, stop))
            self.pieces.append((f"\r\n--{boundary}--\r\n".encode(), 0, 0))
        else:
            self.pieces = [(b"", *(found[0] if found else (0, size)))]
        named["Content-Length"] = str(sum(len(head) + stop - start for head, start, stop in self.pieces))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the head, then the pieces, until the client has them or goes away.

        The first chunk is read before the head is sent, so that damage in it is reported in a problem document (`checksum_mismatch`). Damage
        further on cuts the connection off: the client has fewer bytes than were announced, and none that are wrong.
        """
        if scope["state"]["head"]:
            await self._send(scope, receive, send, iter(()))
            return
        async with scope["state"]["held"].download():
            await self._send(scope, receive, send, self._content())

    async def _send(self, scope: Scope, receive: Receive, send: Send, content: Iterator[bytes]) -> None:
        try:
            first = await run_in_threadpool(next, content, b"")
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async with until_gone(receive) as gone:
                chunk = first
                while chunk and not gone.done():
                    # In small pieces, each of which waits for the client to take the one before.
                    for start in range(0, len(chunk), _PIECE_BYTES):
                        await send({"type": "http.response.body", "body": chunk[start : start + _PIECE_BYTES], "more_body": True})
                    chunk = await run_in_threadpool(next, content, b"")
        except ChecksumMismatch:
            scope["app"].state.metrics.count_damage()
            _log.error("stored bytes are damaged", sha256=self.source.sha256, path=scope["path"])
            raise
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _content(self) -> Iterator[bytes]:
        """The body, in chunks that are not empty; the first one has bytes of the file if any has."""
        for head, start, stop in self.pieces:
            chunks = self.source.read(start, stop) if start < stop else iter(())
            if whole := head + next(chunks, b""):
                yield whole
            yield from chunks


def disposition(filename: str) -> str:
    """`Content-Disposition` with the name twice: as plain ASCII for those who read nothing else, and as it is (RFC 6266, section 5)."""
    plain = unicodedata.normalize("NFKD", filename).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^ !#-.0-\[\]-~]", "_", plain).strip() or "file"
    return f"attachment; filename=\"{plain}\"; filename*=utf-8''{quote(filename, safe='')}"


def document(request: Request, content: bytes, media_type: str) -> ContentResponse:
    """A text of any length: packed where the client takes that and asks for no range. Each coding has an ETag and a digest of its own."""
    coding = None if "range" in request.headers else coding_of(request)
    if coding is None or len(content) < MIN_BYTES:
        return ContentResponse(request, InMemory(content), media_type=media_type, named=VARIES)
    etag = tagged(f'"{hashlib.sha256(content).hexdigest()}"', coding)
    named = VARIES | {"Content-Encoding": coding}
    return ContentResponse(request, InMemory(packed(content, coding)), media_type=media_type, etag=etag, named=named)


def coding_of(request: Request) -> str | None:
    """The content coding that suits the client."""
    return chosen(request.headers.get("accept-encoding", "").encode("latin-1"))


def download(request: Request, service: Service, blob: Blob, filename: str) -> Response:
    """A stored file: its bytes, or a redirect to the object store where the operator lets clients go there.

    HEAD is answered here, as a URL is signed for GET; so is a request that insists on the file's ETag, which the object store does not
    know, and one whose answer has no bytes of the file.
    """
    answer = ContentResponse(request, Stored(service.blobs, blob), filename=filename)
    here = request.scope["state"]["head"] or answer.status_code == 304 or "if-match" in request.headers or "if-range" in request.headers
    if service.settings.redirect_downloads and not here and (url := service.blobs.signed_url(blob)) is not None:
        return RedirectResponse(url, 302)
    return answer


HEADERS = headers.documented("Range", "If-Range", "If-Match", "If-None-Match")
"""What a download looks at."""
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file; its ETag is its SHA-256",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    206: {"description": "The bytes that `Range` asked for"},
    302: {"description": "The file is at the object store (where the operator set `redirect_downloads`)"},
    304: {"description": "The file is the one that `If-None-Match` names"},
    **problems.responses(404, 412, 416, 500),
}
"""What a download may be answered with."""
