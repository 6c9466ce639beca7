"""A small client of the public contract, on the standard library; it knows HTTP and nothing of the service's insides."""

import contextlib
import hashlib
import http
import http.client
import json
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

TERMINAL = frozenset({"succeeded", "failed", "cancelled"})


class ApiError(Exception):
    """The service refused; carries the problem document."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        self.problem = problem
        lines = [f"{status} {problem.get('code', '')}: {problem.get('detail', '')}"]
        lines += [f"  {item['pointer']}: {item['detail']} {item.get('hint') or ''}".rstrip() for item in problem.get("errors", [])]
        super().__init__("\n".join(lines))


class DownloadError(OSError):
    """A file did not arrive whole."""


class _Attentive(http.client.HTTPConnection):
    """Returns the answer of a service that answers and closes the connection before it has read the whole body."""

    def request(self, *arguments: Any, **options: Any) -> None:
        """Send the request, or as much of it as the service takes."""
        try:
            super().request(*arguments, **options)
        except (ConnectionError, ssl.SSLEOFError):
            if self.sock is None:  # there was no connection
                raise


class _AttentiveTls(_Attentive, http.client.HTTPSConnection):
    """The same, encrypted."""


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Attentive, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_AttentiveTls, req)


class Client:
    """Calls one service at `base_url`, with an API key where the service asks for one."""

    def __init__(self, base_url: str, api_key: str | None = None) -> None:
        self.base_url = base_url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._opener = urllib.request.build_opener(_Http, _Https)

    def open(
        self, method: str, path: str, body: bytes | IO[bytes] | None = None, headers: dict[str, str] | None = None, timeout: float = 120
    ) -> IO[bytes]:
        """Send one request and return the open response. Raises ApiError for 4xx and 5xx, OSError where nothing answers."""
        request = urllib.request.Request(  # noqa: S310 - the scheme is the caller's base URL
            self.base_url + path, data=body, method=method, headers={**self._headers, **(headers or {})}
        )
        try:
            response: IO[bytes] = self._opener.open(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            with error:
                text = error.read()
            raise ApiError(error.code, json.loads(text) if text.startswith(b"{") else {"detail": text.decode(errors="replace")}) from None
        return response

    def json(self, method: str, path: str, document: Any = None, headers: dict[str, str] | None = None) -> Any:
        """Send JSON, receive JSON."""
        body = None if document is None else json.dumps(document).encode()
        sent = {"Content-Type": "application/json"} if body else {}
        with self.open(method, path, body, {**sent, **(headers or {})}) as response:
            text = response.read()
        return json.loads(text) if text else None

    def upload(self, kind: str, file: Path, format: str, metadata: dict[str, Any] | None = None) -> Any:
        """Stream a file to `/v1/models` or `/v1/datasets`."""
        query = {"name": file.stem, "format": format}
        if metadata:
            query["metadata"] = json.dumps(metadata)
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(file.stat().st_size)}
        with file.open("rb") as body, self.open("POST", f"/v1/{kind}?{urllib.parse.urlencode(query)}", body, headers, 3600) as response:
            return json.loads(response.read())

    def follow(self, job_id: str, wait_seconds: int = 2) -> Iterator[dict[str, Any]]:
        """The job each time that it changed, by long-polling, until it is terminal."""
        etag = ""
        while True:
            headers = {"Prefer": f"wait={wait_seconds}"} | ({"If-None-Match": etag} if etag else {})
            try:
                with self.open("GET", f"/v1/jobs/{job_id}", headers=headers) as response:
                    etag = response.headers.get("ETag", "")  # type: ignore[attr-defined]
                    job = json.loads(response.read())
            except ApiError as error:
                if error.status != 304:
                    raise
                continue
            yield job
            if job["status"] in TERMINAL:
                return
            time.sleep(0.1)

    def download(self, path: str, target: Path) -> None:
        """Save the body of a GET; `target` appears once all bytes are there and hash to what the ETag names, where it is a SHA-256.

        A download that was cut off goes on where it ended, as long as each try brings bytes. Raises ApiError, DownloadError and OSError;
        `target` is left as it was then.
        """
        part = target.with_name(f".{target.name}.part")
        try:
            with part.open("w+b") as file:
                etag = self._fill(path, file)
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if re.fullmatch(r'"[0-9a-f]{64}"', etag) and etag != f'"{digest}"':
                raise DownloadError(f"{path}: the bytes that arrived have the SHA-256 {digest}, announced was {etag}")
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    def _fill(self, path: str, file: IO[bytes]) -> str:
        """Write the whole body, in as many requests as it takes; returns the ETag."""
        etag = ""
        while True:
            had = file.tell()
            headers = {"Range": f"bytes={had}-", "If-Range": etag} if had else {}
            with self.open("GET", path, headers=headers) as response:
                answered: http.client.HTTPResponse = response  # type: ignore[assignment]
                if answered.status != http.HTTPStatus.PARTIAL_CONTENT:
                    file.truncate(0)
                    file.seek(0)
                first, etag = file.tell(), answered.headers.get("ETag", "")
                expected = first + int(answered.headers["Content-Length"]) if "Content-Length" in answered.headers else None
                with contextlib.suppress(http.client.IncompleteRead, ConnectionError):
                    while chunk := answered.read(1 << 20):
                        file.write(chunk)
            if expected is None or file.tell() == expected:
                return etag
            if not etag or file.tell() <= had:
                raise DownloadError(f"{path}: cut off after {file.tell()} of {expected} bytes")
