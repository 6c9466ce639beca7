"""Logging in with a key, and out again; and the files that pages load."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from api.front import browser
from api.front.authentication import Authenticator
from api.http.routing import ClosedRoute
from api.pages.forms import Sent
from api.pages.rendering import Content, files, framed, render
from core.access import sessions
from core.errors import NotFound, Unauthenticated
from core.service import Service

router = APIRouter(route_class=ClosedRoute, include_in_schema=False)
Next = Annotated[str, Query(max_length=2000)]


@router.get(browser.LOGIN)
async def login_page(request: Request, next: Next = "/") -> Response:
    """The form that takes a key."""
    if request.app.state.settings.auth == "off":
        return RedirectResponse("/", 303)
    return _form(request, next)


@router.post(browser.LOGIN)
async def log_in(request: Request, form: Sent) -> Response:
    """Begin a session of a valid key."""
    settings = request.app.state.settings
    authenticate: Authenticator = request.app.state.authenticate
    address = request.client.host if request.client else ""
    onward = browser.within(form.text("next"))
    try:
        principal = await authenticate(f"Bearer {form.text('key')}".encode("latin-1", "replace"), address)
    except Unauthenticated as error:
        return _form(request, onward, error.message)
    if principal.key_id is None:
        return RedirectResponse("/", 303)
    secret = await run_in_threadpool(_begin, request.app.state.service, principal.key_id, settings.session_seconds)
    answer = RedirectResponse(onward, 303)
    answer.headers["set-cookie"] = browser.set_cookie(request.scope, browser.SESSION, secret, int(settings.session_seconds))
    return answer


@router.post("/logout")
async def log_out(request: Request, form: Sent) -> Response:
    """End the session, wherever its cookie was copied to."""
    secret: str = request.scope["state"].get("browser", "")
    await run_in_threadpool(_end, request.app.state.service, secret)
    request.app.state.authenticate.forget_session(secret)
    answer = RedirectResponse(browser.LOGIN, 303)
    answer.headers["set-cookie"] = browser.set_cookie(request.scope, browser.SESSION, "", 0)
    return answer


@router.get("/static/{filename}")
async def static(filename: Annotated[str, Path(max_length=100)], v: Annotated[str, Query(max_length=64)] = "") -> Response:
    """A file that pages load; `v` changes with its bytes, so that browsers keep it."""
    if filename not in files():
        raise NotFound(f"nothing is at /static/{filename}")
    content, media_type = files()[filename]
    kept = "public, max-age=31536000, immutable" if v else "public, max-age=300"
    return Response(content, media_type=media_type, headers={"Cache-Control": kept})


def _form(request: Request, onward: str, refused: str = "") -> Response:
    html = render("login.html", onward=browser.within(onward), refused=refused)
    return framed(request, Content("Log in", html, status=401 if refused else 200))


def _begin(service: Service, key_id: str, seconds: float) -> str:
    with service.database.unit_of_work() as session:
        return sessions.begin(session, key_id, seconds)


def _end(service: Service, secret: str) -> None:
    with service.database.unit_of_work() as session:
        sessions.end(session, secret)
