"""What holds for every request, whichever route answers: its id, its origin, its headers, and that no exception leaks."""

import re
import secrets
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import problems
from api.metrics import Metrics
from core.logging import bound, logger

log = logger(__name__)

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{8,128}")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_CLOSED_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")


class Front:
    """The outermost layer.

    `allowed_hosts` is None where any `Host` is served; on a loopback bind without keys it is a set, so that a web page elsewhere cannot
    reach the service through a name that it points at 127.0.0.1 (DNS rebinding), nor by a cross-site form.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: frozenset[str] | None, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics
        self.allowed_hosts = allowed_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = Headers(scope=scope)
        sent_id = headers.get("x-request-id", "")
        request_id = sent_id if _SANE_ID.fullmatch(sent_id) else f"req_{secrets.token_hex(10)}"
        head = scope["method"] == "HEAD"
        if head:
            # HEAD is GET without the body (RFC 9110, section 9.3.2); routes that send much look at `state.head`.
            scope = {**scope, "method": "GET"}
        scope.setdefault("state", {}).update(request_id=request_id, head=head)
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                known = {name for name, _ in message["headers"]}
                added = [item for item in (*_SECURITY_HEADERS, _CLOSED_POLICY) if item[0] not in known]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode()), *added]
            elif head:
                message = {**message, "body": b""}
            await send(message)

        try:
            with bound(request_id=request_id):
                await self._answer(scope, receive, send_with_headers, headers)
        except ClientDisconnect:
            status = 499
        except Exception:
            log.exception("request_failed", request_id=request_id, method=scope["method"], path=scope["path"])
            if status:
                raise
            detail = "the service failed to answer; its log says why under the request id"
            await problems.render(request_id, 500, "internal_error", detail)(scope, receive, send_with_headers)
        finally:
            seconds = time.perf_counter() - started
            self.metrics.observe_request(scope, status, seconds)
            if scope["method"] not in _SAFE_METHODS or status >= 400:
                fields = {"method": scope["method"], "path": scope["path"], "status": status, "seconds": round(seconds, 4)}
                log.info("request", request_id=request_id, **fields)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, headers: Headers) -> None:
        refusal = self._refusal(scope["method"], headers)
        if refusal is None:
            await self.app(scope, receive, send)
        else:
            code, status, detail = refusal
            await problems.render(scope["state"]["request_id"], status, code, detail)(scope, receive, send)

    def _refusal(self, method: str, headers: Headers) -> tuple[str, int, str] | None:
        """Code, status and sentence for a request that came the wrong way."""
        if self.allowed_hosts is None:
            return None
        host = headers.get("host", "")
        if (urlsplit(f"//{host}").hostname or "") not in self.allowed_hosts:
            return "host_not_allowed", 421, f"this service does not answer for the host {host!r}; it is bound to loopback"
        origin = headers.get("origin")
        if method not in _SAFE_METHODS and origin is not None and urlsplit(origin).netloc != host:
            return "cross_origin_refused", 403, f"a page at {origin!r} may not change anything here"
        return None
