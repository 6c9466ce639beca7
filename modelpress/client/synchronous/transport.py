"""Written by `make docs` from the module of this name in `modelpress.client.asynchronous`; do not edit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel

from modelpress.client.synchronous.tools import beside, pause
from modelpress.client.wire import Attempts, Call, Deadline, Download, HttpEvent, Stream
from modelpress.resources.common import Page

Found = TypeVar("Found", bound=BaseModel)
CONNECT_SECONDS = 10.0
STREAM_SECONDS = 45.0
"""A stream says something every fifteen seconds."""


class Transport:
    """One service, with its connections."""

    def __init__(self, http: httpx.Client, *, retries: int, timeout_seconds: float) -> None:
        self.http = http
        self.retries = retries
        self._timeout_seconds = timeout_seconds

    def send(self, call: Call, *, retries: int | None = None) -> httpx.Response:
        """The answer of one request, which is sent again where that does no harm. Raises ApiError and ConnectionFailed."""
        attempts = Attempts(self.retries if retries is None else retries, call.repeatable)
        while True:
            failure: httpx.TransportError | httpx.Response
            try:
                response = self.http.request(
                    call.method,
                    call.path,
                    params=call.query(),
                    headers=dict(call.headers),
                    content=call.content,
                    timeout=self._timeout(call.timeout_seconds or self._timeout_seconds),
                )
            except httpx.TransportError as error:
                failure = error
            else:
                if not response.is_error:
                    return response
                failure = response
            pause(attempts.after(failure))

    def fetch(self, kind: type[Found], call: Call) -> Found:
        """The answer of one request, read."""
        return kind.model_validate_json((self.send(call)).content)

    def document(self, call: Call) -> Any:
        """The answer of one request as JSON types."""
        return (self.send(call)).json()

    def remove(self, path: str) -> None:
        """DELETE; nothing is left to be done where a repeated request finds nothing."""
        self.send(Call("DELETE", path))

    def every(self, kind: type[Found], call: Call) -> Iterator[Found]:
        """Every item of a list, page by page."""
        after: str | None = None
        while True:
            page = self.fetch(Page[kind], Call(call.method, call.path, {**call.params, "after": after}))  # type: ignore[valid-type]  # a type that is an argument
            for item in page.data:
                yield item
            if page.next_cursor is None:
                return
            after = page.next_cursor

    def follow(self, path: str, after: str | None, deadline: Deadline) -> Iterator[HttpEvent | None]:
        """The events of a stream until it ends or the time is over; None for each sign of life. A broken connection goes on where it ended."""
        stream = Stream(after, self.retries)
        while not stream.ended and not deadline.passed:
            failure: httpx.TransportError | httpx.Response | None = None
            limit, expected = max(0.1, deadline.left(STREAM_SECONDS)), False
            try:
                with self.http.stream("GET", path, headers=stream.headers(), timeout=self._timeout(limit)) as response:
                    if response.is_error:
                        response.read()
                        failure = response
                    else:
                        for line in response.iter_lines():
                            yield stream.feed(line)
                            if deadline.left(STREAM_SECONDS) < limit - 1:
                                expected = True  # silence may last less long than this connection waits
                                break
            except httpx.TransportError as error:
                failure, expected = error, limit < STREAM_SECONDS and isinstance(error, httpx.ReadTimeout)
            if not stream.ended and not expected:
                pause(stream.pause(failure))

    def save(self, path: str, target: Path, *, params: dict[str, Any] | None = None, sha256: str | None = None) -> Path:
        """Save the body of a GET. A download that was cut off goes on where it ended, as long as each try brings bytes.

        Raises ApiError, ConnectionFailed, TransferError, and OSError where the file cannot be written; `target` is left as it was then.
        """
        download = beside(Download, path, target, sha256)
        try:
            attempts = Attempts(self.retries)
            while True:
                failure = self._receive(download, Call("GET", path, params or {}, download.headers()))
                if failure is not None:
                    pause(attempts.after(failure))
                elif beside(download.whole):
                    return beside(download.keep)
        finally:
            download.close()

    def _receive(self, download: Download, call: Call) -> httpx.TransportError | httpx.Response | None:
        """One go at a download; what kept it from beginning."""
        begun = False
        try:
            with self.http.stream(
                "GET",
                call.path,
                params=call.query(),
                headers=dict(call.headers),
                timeout=self._timeout(self._timeout_seconds),
                follow_redirects=True,
            ) as response:
                if response.is_error:
                    response.read()
                    return response
                download.begin(response)
                begun = True
                for chunk in response.iter_raw():
                    beside(download.write, chunk)
        except httpx.TransportError as error:
            return None if begun else error
        return None

    def _timeout(self, seconds: float) -> httpx.Timeout:
        return httpx.Timeout(seconds, connect=CONNECT_SECONDS)
