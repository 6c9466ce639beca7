"""Default-deny authentication, in front of every route: nothing but the public paths is reached without a principal.

Behind the same gate stand the jobs that are answered from memory, so that polling costs no route, no thread and no database.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.front import browser
from api.front.limits import Limits
from api.http import conditional, problems
from api.http.coding import chosen
from api.live.hot import HotJobs, Rendered
from core.access.keys import Principal
from core.access.keys import Scope as KeyScope
from core.errors import ServiceError, Unauthenticated

LIVEZ = "/livez"
PUBLIC = frozenset({"/livez", "/readyz", "/openapi.json", "/docs", "/problems", browser.LOGIN})
PUBLIC_FOLDERS = ("/docs/", "/problems/", browser.STATIC)
_JOBS = "/v1/jobs/"
_NEEDS_ROUTE = frozenset({b"prefer", b"if-match"})
"""Headers that the memory's short answer does not heed."""
_HOT_ROUTE = SimpleNamespace(path="/v1/jobs/{job_id}")
_KEY_SECONDS = 1.0
"""How long a verified key is trusted without asking again; a revoked one lives this much longer."""
_MAX_KEYS = 4096
_TOUCH_SECONDS = 60.0


class Authenticator:
    """Turns the `Authorization` header, or a page's session, into a principal.

    `verify` and `verify_session` ask the database and raise `unauthenticated`; `touch` notes the use of a key.
    """

    def __init__(
        self,
        verify: Callable[[str], Principal],
        verify_session: Callable[[str], Principal],
        touch: Callable[[str], None],
        anyone: Principal | None,
        limits: Limits,
    ) -> None:
        self._limits = limits
        self._verify = verify
        self._verify_session = verify_session
        self._touch = touch
        self._touched: dict[str, float] = {}
        self._anyone = anyone
        """Who asks where authentication is off."""
        self._known: dict[bytes, tuple[float, Principal]] = {}
        self._asking: dict[bytes, asyncio.Task[Principal]] = {}
        """Keys that the database is being asked for: requests that come meanwhile wait for the same answer."""

    async def __call__(self, authorization: bytes, address: str) -> Principal:
        """The principal of this header. Raises `unauthenticated`, and `rate_limited` for an address that guesses."""
        if self._anyone is not None:
            return self._anyone
        scheme, _, token = authorization.decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("this needs an API key", hint="send Authorization: Bearer mp_…; modelpress keys create makes a key")
        return await self._principal(_digest(token), partial(self._verify, token.strip()), address)

    async def of_session(self, secret: str, address: str) -> Principal:
        """The principal of a page's session. Raises `unauthenticated`, and `rate_limited` for an address that guesses."""
        if self._anyone is not None:
            return self._anyone
        if not secret:
            raise Unauthenticated("nobody has logged in here", hint="log in with an API key, or send Authorization: Bearer mp_…")
        return await self._principal(_session_digest(secret), partial(self._verify_session, secret), address)

    def forget_session(self, secret: str) -> None:
        """A session was ended here: it is asked for anew."""
        self._known.pop(_session_digest(secret), None)

    async def _principal(self, digest: bytes, verify: Callable[[], Principal], address: str) -> Principal:
        known = self._known.get(digest)
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        if known is None:
            self._limits.check_failures(address)
        asking = self._asking.get(digest)
        if asking is None:
            asking = self._asking[digest] = asyncio.create_task(self._ask(digest, verify))
            asking.add_done_callback(lambda _: self._asking.pop(digest))
        try:
            return await asyncio.shield(asking)
        except Unauthenticated:
            self._limits.failed(address)
            raise

    def whose(self, authorization: bytes, address: str) -> str:
        """A name for whoever sends this header, from memory: the project, or the address where the key is not known yet."""
        if not authorization:
            return address
        known = self._known.get(_digest(authorization.decode("latin-1").partition(" ")[2]))
        return known[1].project_id if known is not None else address

    async def _ask(self, digest: bytes, verify: Callable[[], Principal]) -> Principal:
        now = time.monotonic()
        try:
            principal = await run_in_threadpool(verify)
        except Unauthenticated:
            self._known.pop(digest, None)
            raise
        if principal.key_id is not None and now - self._touched.get(principal.key_id, -_TOUCH_SECONDS) >= _TOUCH_SECONDS:
            self._touched[principal.key_id] = now
            await run_in_threadpool(self._touch, principal.key_id)
        if len(self._known) >= _MAX_KEYS:
            self._known.clear()
        self._known[digest] = (now + _KEY_SECONDS, principal)
        return principal


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _session_digest(secret: str) -> bytes:
    """Apart from every token's, so that neither opens what is meant for the other."""
    return hashlib.sha256(b"session:" + secret.encode()).digest()


class Gate:
    """Lets a request pass with `state.principal` set, answers it from memory, or refuses it."""

    def __init__(self, app: ASGIApp, hot: HotJobs, limits: Limits) -> None:
        self.app = app
        self.limits = limits
        self.hot = hot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path: str = scope["path"] if scope["type"] == "http" else ""
        if scope["type"] != "http" or path == LIVEZ:
            await self.app(scope, receive, send)
            return
        address = scope["client"][0] if scope.get("client") else ""
        try:
            if path in PUBLIC or path.startswith(PUBLIC_FOLDERS):
                self.limits.arrive(address)
                await self.app(scope, receive, send)
            else:
                await self._protected(scope, receive, send, address)
        except ServiceError as error:
            await _refused(scope, error)(scope, receive, send)

    async def _protected(self, scope: Scope, receive: Receive, send: Send, address: str) -> None:
        headers, path = dict(scope["headers"]), scope["path"]
        authenticate: Authenticator = scope["app"].state.authenticate
        if b"authorization" not in headers and browser.takes_session(scope["method"], path):
            secret = browser.cookie(scope, browser.SESSION)
            principal = await authenticate.of_session(secret, address)
            if principal.key_id is not None:
                scope["state"]["browser"] = secret
        else:
            principal = await authenticate(headers.get(b"authorization", b""), address)
        scope["state"]["principal"] = principal
        if scope["method"] == "GET" and path.startswith(_JOBS) and not scope["query_string"] and not _NEEDS_ROUTE & headers.keys():
            entry = self.hot.get(principal.project_id, path[len(_JOBS) :])
            if entry is not None and principal.scopes & {KeyScope.JOBS_READ, KeyScope.ADMIN}:
                scope["route"] = _HOT_ROUTE
                await answer(entry, headers, send)
                return
        self.limits.arrive(principal.key_id or address)
        async with self.limits.under_way(principal.project_id) as held:
            scope["state"]["held"] = held

            async def receive_slowly() -> Message:
                held.end_turn()
                return await receive()

            async def send_slowly(message: Message) -> None:
                held.end_turn()
                await send(message)

            await self.app(scope, receive_slowly, send_slowly)


def _refused(scope: Scope, error: ServiceError) -> Response:
    """The problem; or, for a browser that has no session, the way to get one."""
    if isinstance(error, Unauthenticated):
        if browser.is_page(scope["path"]) and browser.is_part(scope):
            return Response(status_code=401, headers={"HX-Redirect": browser.LOGIN})
        if scope["method"] == "GET" and browser.wants_page(scope):
            return RedirectResponse(browser.login_path(scope), 303)
    return problems.of_service_error(scope["state"]["request_id"], error)


async def answer(entry: Rendered, asked: dict[bytes, bytes], send: Send) -> None:
    """One rendered job, in a coding that the client takes: the body, or the word that the client has it."""
    accepted, known = asked.get(b"accept-encoding"), asked.get(b"if-none-match")
    sent = entry.sent(None if accepted is None else chosen(accepted))
    unchanged = known is not None and conditional.matches(known.decode("latin-1"), entry.etag)
    headers = [item for item in sent.raw_headers if not unchanged or not item[0].startswith(b"content-")]
    await send({"type": "http.response.start", "status": 304 if unchanged else 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if unchanged else sent.body})
