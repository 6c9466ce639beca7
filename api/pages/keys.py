"""The keys of a project: who has admin's rights makes and revokes them; everybody sees the key that they came with, and what the project uses."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import RedirectResponse, Response

from api.deps import IsAdmin
from api.http.routing import ClosedRoute
from api.pages.change import change
from api.pages.forms import Sent
from api.pages.rendering import Content, View, framed, render, show
from core.access import keys, quotas
from core.access.keys import USER_SCOPES, Scope
from core.database.db import Session
from core.database.tables import ApiKey
from core.errors import MalformedRequest

router = APIRouter(route_class=ClosedRoute, include_in_schema=False)
MOST_SHOWN = 200
MOST_DAYS = 3650
_UNITS = {"stored_bytes": "bytes", "compute_seconds": "seconds"}


@dataclass(frozen=True)
class Shown:
    """A key in the list."""

    row: ApiKey
    state: str
    mine: bool


@router.get("/keys")
async def keys_page(request: Request) -> Response:
    """The keys, and what the project uses."""
    return await show(request, request.state.principal, _list)


def _list(view: View) -> Content:
    found = keys.find_all(view.session, view.project_id)
    own = view.principal.key_id
    rows = [_shown(row, own) for row in found[:MOST_SHOWN] if view.may(Scope.ADMIN) or row.id == own]
    usage = quotas.usage(view.session, view.project_id)
    return view.page(
        "keys.html",
        "Keys",
        "keys",
        rows=rows,
        usage=usage,
        units=_UNITS,
        scopes=[(scope.value, scope in USER_SCOPES) for scope in Scope],
        by_key=own is not None,
    )


def _shown(row: ApiKey, own: str | None) -> Shown:
    expired = row.expires_at is not None and row.expires_at <= datetime.now(UTC)
    return Shown(row, "revoked" if row.revoked_at else "expired" if expired else "valid", row.id == own)


@router.post("/keys")
async def create_key(request: Request, principal: IsAdmin, form: Sent) -> Response:
    """A new key; its token is shown on this page and never again."""
    name = form.text("name")[:200]
    if not name or not name.isprintable():
        raise MalformedRequest("a key needs a name", hint="say what the key is for")
    scopes, days = form.get("scope", []), _days(form.text("days"))

    def make(session: Session) -> tuple[str, str]:
        key, token = keys.create(session, principal.project_id, name, scopes=scopes, valid_for=days)
        return key.name, token

    name, token = await change(request, make)
    return framed(request, Content("New key", render("key.html", name=name, token=token), "keys"))


def _days(text: str) -> timedelta | None:
    if not text:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= MOST_DAYS:
        raise MalformedRequest(f"a key is valid for 1 to {MOST_DAYS} days", hint="leave the days empty for a key that does not expire")
    return timedelta(days=int(text))


@router.post("/keys/{key}/revoke")
async def revoke_key(
    request: Request, principal: IsAdmin, form: Sent, key: Annotated[str, Path(pattern=r"^key_[a-z0-9]{1,40}$")]
) -> Response:
    """End a key, and every session that was begun with it."""
    await change(request, partial(_revoke, project_id=principal.project_id, key_id=key))
    return RedirectResponse("/keys", 303)


def _revoke(session: Session, *, project_id: str, key_id: str) -> None:
    keys.revoke(session, project_id, key_id)
