"""What holds for every request, whichever route answers: its id, its origin, its headers, and that no exception leaks."""

import functools
import ipaddress
import re
import time
from collections.abc import Sequence
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from api.front.cors import Cors
from api.front.metrics import Metrics
from api.http import problems
from core import tracing
from core.logging import logger
from core.tracing import OFF, Span

log = logger(__name__)

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{8,128}")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""What every answer says, where it does not say something else."""
_SECURITY_NAMES = frozenset(name for name, _ in _SECURITY_HEADERS)
REFUSALS_SECONDS = 1.0
"""Requests that are refused because there are too many of them share a line of the log, once in so many seconds."""


class Front:
    """The outermost layer.

    With `only_local`, for a loopback bind without keys, requests for any other host are refused, so that a web page elsewhere cannot
    reach the service through a name that it points at 127.0.0.1 (DNS rebinding), nor by a cross-site form.
    """

    def __init__(self, app: ASGIApp, only_local: bool, cors: Cors, metrics: Metrics) -> None:
        self.app = app
        self.only_local = only_local
        self.cors = cors
        self.metrics = metrics
        self._refused = 0
        self._refusals_logged_at = -REFUSALS_SECONDS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if not tracing.is_on():
            return await self._answer(scope, receive, send)
        span = tracing.begin(scope["method"], _traceparent(scope), server=True, http__request__method=scope["method"])
        with tracing.current(span):
            await self._answer(scope, receive, send, span)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, span: Span = OFF) -> None:
        started = time.perf_counter()
        headers = dict(scope["headers"])
        sent_id = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = sent_id if sent_id and _SANE_ID.fullmatch(sent_id) else problems.request_id()
        head = scope["method"] == "HEAD"
        if head:
            # HEAD is GET without the body (RFC 9110, section 9.3.2); routes that send much look at `state.head`.
            scope = {**scope, "method": "GET"}
        scope.setdefault("state", {}).update(request_id=request_id, head=head)
        status = 0
        beside = self.cors.headers(scope, headers.get(b"origin"))

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = message["headers"]
                message["headers"] = [*own, (b"x-request-id", request_id.encode()), *beside, *_missing(own)]
            elif head:
                message = {**message, "body": b""}
            await send(message)

        # A server answers each request in a task of its own, so that nothing has to be unbound.
        bind_contextvars(request_id=request_id)
        try:
            refusal = _refusal(scope, headers, self.cors) if self.only_local else None
            if refusal is None and (preflight := self.cors.preflight(scope, headers)) is not None:
                await send_with_headers({"type": "http.response.start", "status": 204, "headers": preflight})
                await send_with_headers({"type": "http.response.body", "body": b""})
            elif refusal is None:
                await self.app(scope, receive, send_with_headers)
            else:
                await problems.render(request_id, *refusal)(scope, receive, send_with_headers)
        except ClientDisconnect:
            status = 499
        except Exception:  # The outermost place: what nobody foresaw is logged, and answered as a problem document.
            log.exception("request_failed", method=scope["method"], path=scope["path"])
            if status:
                raise
            detail = "the service failed to answer; its log says why under the request id"
            await problems.render(request_id, 500, "internal_error", detail)(scope, receive, send_with_headers)
        finally:
            seconds = time.perf_counter() - started
            self.metrics.observe_request(scope, status, seconds)
            if span is not OFF:
                _describe(span, scope, status, request_id)
            if status == HTTPStatus.TOO_MANY_REQUESTS:
                self._log_refusals(scope)
            elif scope["method"] not in _SAFE_METHODS or status >= 400:
                log.info("request", method=scope["method"], path=scope["path"], status=status, seconds=round(seconds, 4))

    def _log_refusals(self, scope: Scope) -> None:
        self._refused += 1
        now = time.monotonic()
        if now - self._refusals_logged_at >= REFUSALS_SECONDS:
            log.info("requests_refused", requests=self._refused, last_method=scope["method"], last_path=scope["path"], status=429)
            self._refused, self._refusals_logged_at = 0, now


def _missing(own: Sequence[tuple[bytes, bytes]]) -> Sequence[tuple[bytes, bytes]]:
    present = dict(own)
    if _SECURITY_NAMES.isdisjoint(present):
        return _SECURITY_HEADERS
    return [header for header in _SECURITY_HEADERS if header[0] not in present]


def _refusal(scope: Scope, headers: dict[bytes, bytes], cors: Cors) -> tuple[int, str, str] | None:
    """Status, code and sentence for a request that came the wrong way."""
    if scope.get("client") is not None and not _is_local(_bracketed(scope["client"][0])):
        return 403, "not_local", "without API keys only this machine is served: set MODELPRESS_AUTH=required and make a key"
    host = headers.get(b"host", b"").decode("latin-1")
    if not _is_local(host):
        return 421, "host_not_allowed", f"this service does not answer for the host {host[:200]!r}; it is bound to loopback"
    origin = headers.get(b"origin")
    foreign = origin is not None and urlsplit(origin.decode("latin-1")).netloc != host and not cors.allows(origin)
    if scope["method"] not in _SAFE_METHODS and foreign:
        return 403, "cross_origin_refused", "a page of another origin may not change anything here"
    return None


def _traceparent(scope: Scope) -> str | None:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"traceparent"), None)


def _describe(span: Span, scope: Scope, status: int, request_id: str) -> None:
    """A span is called by its route, as paths are without number."""
    route = getattr(scope.get("route"), "path", None)
    span.describe(http__route=route, url__path=scope["path"][:200], http__response__status_code=status, request__id=request_id)
    span.rename(f"{scope['method']} {route}" if route else scope["method"])


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


@functools.lru_cache(256)
def _is_local(host: str) -> bool:
    """Whether a `Host` header means this machine: `localhost`, or an address of the loopback."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
