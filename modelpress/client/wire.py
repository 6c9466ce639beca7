"""The protocol without the network: what to send, when to try again, how streams and downloads go on. Shared by both clients."""

import base64
import hashlib
import json
import random
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
from pydantic import Field, TypeAdapter

from modelpress.client.errors import ApiError, ConnectionFailed, TransferError
from modelpress.resources.jobs import Event, JobProgress

Json = Mapping[str, Any] | Sequence[Any] | str | int | float | bool | None
"""A JSON document, as the standard library writes it."""
Spec = Mapping[str, Any] | str | Path
"""A spec as a mapping, as the text of a YAML or JSON document, or as a file that holds one."""
HttpEvent = Event | JobProgress
DEFAULT_URL = "http://127.0.0.1:8000"
PART_BYTES = 8 * 2**20
"""Longer files are sent in parts of so many bytes, or of more where there would be too many parts."""
MOST_PARTS = 10_000
_FIRST_PAUSE_SECONDS = 0.5
_MOST_PAUSE_SECONDS = 30.0
_PASSING = frozenset({"rate_limited", "service_unavailable", "idempotency_in_progress"})
_PASSING_STATUSES = frozenset({502, 503, 504})
_STREAMED: TypeAdapter[HttpEvent] = TypeAdapter(Annotated[HttpEvent, Field(discriminator="object")])
_SHA256_TAG = re.compile(r'"([0-9a-f]{64})"')


@dataclass(frozen=True)
class Call:
    """One request. `repeatable` says whether doing it twice does no harm."""

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    repeatable: bool = True
    timeout_seconds: float | None = None
    """How long an answer may take; the client's own bound where it is None."""

    @classmethod
    def of(cls, method: str, path: str, document: Json = None, **options: Any) -> "Call":
        """A request with a JSON body, or with none."""
        if document is None:
            return cls(method, path, **options)
        headers = {"Content-Type": "application/json", **options.pop("headers", {})}
        return cls(method, path, content=json.dumps(document).encode(), headers=headers, **options)

    def query(self) -> dict[str, Any] | None:
        """The parameters that were given; None where none were, as httpx takes an empty query for one that replaces the path's own."""
        return {name: value for name, value in self.params.items() if value is not None and value != ()} or None


def keyed(key: str | None) -> dict[str, str]:
    """The header under which the service does a request once, however often it comes."""
    return {"Idempotency-Key": key or f"py-{secrets.token_hex(16)}"}


@dataclass
class Attempts:
    """How often one request was tried, and how long to wait before the next time."""

    retries: int
    repeatable: bool = True
    made: int = 0

    def after(self, failure: httpx.TransportError | httpx.Response) -> float:
        """Seconds to wait before the request is sent again. Raises ApiError and ConnectionFailed where that is not to be done."""
        again = self.made < self.retries and self._may_repeat(failure)
        self.made += 1
        asked = ""
        if isinstance(failure, httpx.Response):
            if not again:
                raise ApiError.of(failure)
            asked = str(failure.headers.get("retry-after", ""))
        elif not again:
            raise _failed(failure) from failure
        if asked.isdecimal():
            return min(float(asked), _MOST_PAUSE_SECONDS)
        spread = random.uniform(0.5, 1)  # noqa: S311 - spreads clients, hides nothing
        return float(min(_FIRST_PAUSE_SECONDS * 2 ** (self.made - 1), _MOST_PAUSE_SECONDS) * spread)

    def _may_repeat(self, failure: httpx.TransportError | httpx.Response) -> bool:
        if isinstance(failure, httpx.Response):
            code = ApiError.of(failure).code
            # What was refused for its rate was not begun; of all else nobody knows.
            return code == "rate_limited" or (self.repeatable and (code in _PASSING or failure.status_code in _PASSING_STATUSES))
        if isinstance(failure, httpx.UnsupportedProtocol):
            return False
        return self.repeatable or isinstance(failure, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)


def _failed(failure: httpx.TransportError) -> ConnectionFailed:
    try:
        where = f" of {failure.request.method} {failure.request.url}"
    except RuntimeError:
        where = ""
    return ConnectionFailed(f"{type(failure).__name__}{where}: {failure}")


def spec_call(path: str, spec: Spec, **options: Any) -> Call:
    """A request whose body is a spec."""
    if isinstance(spec, Mapping):
        return Call.of("POST", path, dict(spec), **options)
    content = spec.read_bytes() if isinstance(spec, Path) else spec.encode()
    kind = "json" if content.lstrip()[:1] == b"{" else "yaml"
    headers = {"Content-Type": f"application/{kind}", **options.pop("headers", {})}
    return Call("POST", path, content=content, headers=headers, **options)


@dataclass(frozen=True)
class Parts:
    """A file cut into parts, numbered from 1."""

    path: Path
    size_bytes: int
    part_bytes: int

    @classmethod
    def of(cls, path: Path) -> "Parts":
        """The parts of a file. Raises FileNotFoundError and the like."""
        size = path.stat().st_size
        return cls(path, size, max(PART_BYTES, -(-size // MOST_PARTS)))

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Number and bytes of each part."""
        with self.path.open("rb") as file:
            for number in range(1, -(-self.size_bytes // self.part_bytes) + 1):
                yield number, file.read(self.part_bytes)


def digest_header(sha256: bytes) -> dict[str, str]:
    """Has the service compare what arrives with what was sent."""
    return {"Content-Digest": f"sha-256=:{base64.b64encode(sha256).decode()}:"}


class Stream:
    """Reads server-sent events, and knows where to go on after a broken connection."""

    def __init__(self, after: str | None, retries: int) -> None:
        self.last_id = after
        self.ended = False
        self._retries = retries
        self._attempts = Attempts(retries)
        self._name, self._data = "", ""

    def headers(self) -> dict[str, str]:
        """Those of the next request."""
        self._name, self._data = "", ""
        return {"Accept": "text/event-stream"} | ({"Last-Event-ID": self.last_id} if self.last_id else {})

    def feed(self, line: str) -> HttpEvent | None:
        """Take one line; returns the event that it completes."""
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                self._name = value
            elif name == "data":
                self._data += value
            return None
        name, data, self._name, self._data = self._name, self._data, "", ""
        if name == "end":
            self.ended = True
        if not data or name == "end":
            return None
        found = _STREAMED.validate_json(data)
        if isinstance(found, Event):
            self.last_id = found.id
        self._attempts = Attempts(self._retries)
        return found

    def pause(self, failure: httpx.TransportError | httpx.Response | None) -> float:
        """Seconds to wait before going on; a stream that ends too soon counts as a broken one. Raises ApiError and ConnectionFailed."""
        return self._attempts.after(failure or httpx.RemoteProtocolError("the stream ended before the job did"))


class Download:
    """A file that arrives, perhaps in several goes; `target` appears once all bytes are there and hash to what was announced."""

    def __init__(self, path: str, target: Path, sha256: str | None) -> None:
        self.path, self.target = path, target
        self._sha256 = sha256
        self._etag = ""
        self._expected: int | None = None
        self._part = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.part")
        self._file = self._part.open("x+b")
        self._before = 0

    def headers(self) -> dict[str, str]:
        """Those of the next request."""
        self._before = self._file.tell()
        identity = {"Accept-Encoding": "identity"}
        return identity | ({"Range": f"bytes={self._before}-", "If-Range": self._etag} if self._before and self._etag else {})

    def begin(self, response: httpx.Response) -> None:
        """An answer has come: all from the start, or what was asked for."""
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            self._file.seek(0)
            self._file.truncate(0)
        self._etag = response.headers.get("etag", "")
        announced = response.headers.get("content-length", "")
        self._expected = self._file.tell() + int(announced) if announced.isdecimal() else None

    def write(self, chunk: bytes) -> None:
        """Some more of it."""
        self._file.write(chunk)

    def whole(self) -> bool:
        """Whether nothing is missing. Raises TransferError where another request would bring nothing."""
        if self._expected is None or self._file.tell() == self._expected:
            return True
        if not self._etag or self._file.tell() <= self._before:
            raise TransferError(f"{self.path}: cut off after {self._file.tell()} of {self._expected} bytes")
        return False

    def keep(self) -> Path:
        """Put the file in its place. Raises TransferError where it has other bytes than it should."""
        self._file.seek(0)
        digest = hashlib.file_digest(self._file, "sha256").hexdigest()
        tag = _SHA256_TAG.fullmatch(self._etag)
        for announced in (self._sha256, tag and tag[1]):
            if announced and announced != digest:
                raise TransferError(f"{self.path}: the bytes that arrived have the SHA-256 {digest}, announced was {announced}")
        self._file.close()
        self._part.replace(self.target)
        return self.target

    def close(self) -> None:
        """Leave nothing behind of a download that failed."""
        self._file.close()
        self._part.unlink(missing_ok=True)


def inside(folder: Path, filename: str) -> Path:
    """Where a file that the service names lies in a folder. Raises TransferError for a name that leads out of it."""
    if not filename or filename in (".", "..") or Path(filename).name != filename or "\\" in filename or "\x00" in filename:
        raise TransferError(f"{filename!r} is no name for a file")
    return folder / filename


class Deadline:
    """How long somebody waits; for ever where no time is given."""

    def __init__(self, seconds: float | None) -> None:
        self._ends_at = None if seconds is None else time.monotonic() + seconds

    def left(self, most: float) -> float:
        """Seconds until then, at most `most`."""
        return most if self._ends_at is None else max(0.0, min(most, self._ends_at - time.monotonic()))

    @property
    def passed(self) -> bool:
        """Whether it is over."""
        return self.left(1) == 0
