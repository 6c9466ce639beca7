"""Answers in gzip or Brotli for clients that take them (RFC 9110, section 8.4): documents and pages, never files, streams or ranges.

Each coding of an answer has an ETag of its own, `"3-br"` beside `"3"`, as it has other bytes; `api.http.conditional` reads them as one state.
"""

import contextlib
import gzip
from functools import lru_cache

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.conditional import tagged

CODINGS: tuple[str, ...] = ("gzip",)
with contextlib.suppress(ImportError):  # there are machines without a build of it
    import brotli

    CODINGS = ("br", "gzip")  # the better one first
MIN_BYTES = 1024
"""Shorter bodies fit into the packet that the head needs anyway."""
_QUICK_BYTES = 16 * 1024
"""Bodies up to here are packed at once, longer ones in a thread: a millisecond at most."""
_BROTLI_QUALITY, _GZIP_LEVEL = 4, 5
_TYPES = frozenset(
    {
        "application/json",
        "application/problem+json",
        "application/yaml",
        "image/svg+xml",
        "text/css",
        "text/html",
        "text/javascript",
        "text/markdown",
    }
)
Headers = list[tuple[bytes, bytes]]
VARY = (b"vary", b"accept-encoding")


@lru_cache(256)
def chosen(accepted: bytes) -> str | None:
    """`br` or `gzip`, whichever an `Accept-Encoding` likes better, the first if both; None where it names neither, and for `identity` alone."""
    weights: dict[str, float] = {}
    for item in accepted.decode("latin-1").lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        try:
            weights[name] = next((float(text[2:]) for text in parameters if text.startswith("q=")), 1.0)
        except ValueError:
            weights[name] = 0.0
    liked = {coding: weights.get(coding, weights.get("*", 0.0)) for coding in CODINGS}
    best = max(liked, key=lambda coding: liked[coding])
    return best if liked[best] > 0 else None


def packed(content: bytes, coding: str) -> bytes:
    """The content in a coding; the same bytes each time."""
    if coding == "br":
        return brotli.compress(content, mode=brotli.MODE_TEXT, quality=_BROTLI_QUALITY)  # type: ignore[no-any-return]  # the library has no types
    return gzip.compress(content, _GZIP_LEVEL, mtime=0)


_packed_before = lru_cache(16)(packed)
"""Long bodies that are asked for again: what the service ships stays the same object, whose hash Python keeps."""


def recoded(headers: Headers, coding: str, length: int) -> Headers:
    """The headers of an answer that is sent in a coding."""
    changed = {b"content-length": str(length).encode()}
    kept = [
        (name, tagged(value.decode("latin-1"), coding).encode("latin-1") if name == b"etag" else changed.get(name, value))
        for name, value in headers
    ]
    return [*kept, (b"content-encoding", coding.encode())]


class Coding:
    """Packs what is sent whole; what comes in pieces, is short, or is in a coding already passes as it is."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        coding = next((chosen(value) for name, value in scope["headers"] if name == b"accept-encoding"), None)
        start: Message | None = None

        async def send_packed(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                if _may_be_packed(message):
                    message["headers"] = [*message["headers"], VARY]
                    if coding is not None:
                        start = message
                        return
                elif message["status"] == 304 and coding is not None:
                    message["headers"] = _tag_that_was_sent(scope, message["headers"], coding)
                await send(message)
                return
            if start is not None:
                head, start = start, None
                body = message.get("body", b"")
                if not message.get("more_body", False) and len(body) >= MIN_BYTES and coding is not None:
                    if len(body) > _QUICK_BYTES:
                        body = await run_in_threadpool(_packed_before, bytes(body), coding)
                    else:
                        body = packed(body, coding)
                    head["headers"] = recoded(head["headers"], coding, len(body))
                    message = {**message, "body": body}
                await send(head)
            await send(message)

        await self.app(scope, receive, send_packed)


def _may_be_packed(message: Message) -> bool:
    headers = dict(message["headers"])
    media_type = headers.get(b"content-type", b"").partition(b";")[0].decode("latin-1")
    whole = message["status"] not in (204, 206, 304)
    return whole and media_type in _TYPES and not {b"content-encoding", b"accept-ranges"} & headers.keys()


def _tag_that_was_sent(scope: Scope, headers: Headers, coding: str) -> Headers:
    """The word that a client has an answer names the tag of the bytes that it has."""
    known = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"if-none-match"), "")
    plain = next((value.decode("latin-1") for name, value in headers if name == b"etag"), "")
    if not plain or tagged(plain, coding) not in known:
        return headers
    return [(name, tagged(plain, coding).encode("latin-1") if name == b"etag" else value) for name, value in headers] + [VARY]
