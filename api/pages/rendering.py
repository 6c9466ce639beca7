"""Templates, the frame around every page, and the headers that keep a page to this origin."""

import functools
import hashlib
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from fastapi import Request
from fastapi.responses import Response
from markupsafe import Markup
from starlette.concurrency import run_in_threadpool

from api.front import browser
from api.pages import words
from api.pages.fresh import Fresh
from core.access.keys import Principal, Scope
from core.database.db import Session
from core.database.tables import Model
from core.library import inputs
from core.library.inputs import Row
from core.service import Service
from engine import __version__

HERE = Path(__file__).parent
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; frame-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
TOKEN = secrets.token_hex(32)
"""Stands in what is shared between browsers for the token of each one's forms; known to nobody, as it is always replaced."""
CHARTS = Path(__file__).parents[2] / "engine" / "reporting" / "charts.css"


@dataclass(frozen=True)
class Content:
    """The inside of a page."""

    title: str
    html: str
    area: str = ""
    """Which entry of the navigation it belongs to."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class View:
    """What a page is made from."""

    service: Service
    session: Session
    principal: Principal

    @property
    def project_id(self) -> str:
        """Whose things are shown."""
        return self.principal.project_id

    def may(self, scope: str) -> bool:
        """Whether the key has a right, so that what it may not do is not offered."""
        return bool(self.principal.scopes & {Scope(scope), Scope.ADMIN})

    def names(self, table: type[Row], ids: Iterable[str | None]) -> dict[str, str]:
        """What models or datasets are called, where the key may read them."""
        wanted = Scope.MODELS_READ if table is Model else Scope.DATASETS_READ
        return inputs.names(self.session, table, self.project_id, ids) if self.may(wanted) else {}

    def page(self, template: str, title: str, area: str, /, **context: Any) -> Content:
        """A page from its template."""
        return Content(title, render(template, may=self.may, **context), area)


Make = Callable[[View], Content]


class Pages:
    """The pages of one process: what was made a moment ago."""

    def __init__(self) -> None:
        self.fresh: Fresh[Content] = Fresh()


async def show(request: Request, principal: Principal, make: Make) -> Response:
    """A page, or the part of it that a script of ours asks for; browsers that ask for the same at once share what is made."""
    pages: Pages = request.app.state.pages
    part = browser.is_part(request.scope)
    key = (principal.project_id, principal.scopes, request.url.path, request.url.query, part)
    service: Service = request.app.state.service
    content = await pages.fresh.get(key, lambda: run_in_threadpool(_made, service, principal, make))
    return framed(request, content)


def _made(service: Service, principal: Principal, make: Make) -> Content:
    with service.database.reader() as session:
        return make(View(service, session, principal))


def framed(request: Request, content: Content) -> Response:
    """The answer: content within the frame, or by itself where a script asks for a part."""
    scope = request.scope
    secret, cookies = form_secret(request)
    html = content.html
    principal: Principal | None = scope["state"].get("principal")
    if not browser.is_part(scope):
        html = render(
            "frame.html",
            title=content.title,
            area=content.area,
            body=Markup(content.html),  # noqa: S704 - made by a template, which escapes
            logged_in=bool(scope["state"].get("browser")),
            known=principal is not None,
            may_submit=principal is not None and bool(principal.scopes & {Scope.JOBS_WRITE, Scope.ADMIN}),
        )
    html = html.replace(TOKEN, browser.form_token(secret))
    answer = Response(html, content.status, {"Cache-Control": "no-store", **content.headers}, "text/html; charset=utf-8")
    answer.headers["Content-Security-Policy"] = POLICY
    # With `no-referrer` browsers send `Origin: null` with forms (Fetch standard, 3.1), which says nothing.
    answer.headers["Referrer-Policy"] = "same-origin"
    answer.raw_headers += [(b"set-cookie", item.encode()) for item in cookies]
    return answer


def form_secret(request: Request) -> tuple[str, list[str]]:
    """What the tokens of this browser's forms are told from, and the cookie that it is given for it where it has none."""
    scope = request.scope
    held = scope["state"].get("browser") or browser.cookie(scope, browser.ANYONE)
    if held:
        return held, []
    fresh = browser.new_secret()
    return fresh, [browser.set_cookie(scope, browser.ANYONE, fresh)]


@functools.cache
def environment() -> jinja2.Environment:
    """Templates that escape everything that is not markup of ours, and refuse what is not defined."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    found.globals |= {"version": __version__, "asset": asset, "form_token": TOKEN}
    found.filters |= words.FILTERS
    return found


def render(template: str, **context: Any) -> str:
    """A template as text."""
    return environment().get_template(template).render(**context)


@functools.cache
def files() -> dict[str, tuple[bytes, str]]:
    """Every file that pages load, with its media type: ours, and those of others that stand beside their licences."""
    kinds = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
    found = [path for path in sorted((HERE / "static").iterdir()) if path.suffix in kinds]
    return {path.name: (path.read_bytes(), kinds[path.suffix]) for path in (*found, CHARTS)}


@functools.cache
def asset(name: str) -> str:
    """Where a file is, under a name that changes with its bytes."""
    return f"{browser.STATIC}{name}?v={hashlib.sha256(files()[name][0]).hexdigest()[:12]}"
