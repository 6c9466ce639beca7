"""The graph of a network, drawn by Netron, where its package is installed: the viewer's files, and its page without what calls home.

Netron's page asks other servers for the visitor's country and for statistics, and stops working half a year after its release. It does
none of this without a version and a date, and with an answer to its question about cookies.
"""

import functools
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi import Path as InPath
from fastapi.responses import Response

from api.deps import JobId, Reading, ReadsJobs, TheService
from api.front import browser
from api.http.content import ContentResponse, Stored
from api.http.routing import ClosedRoute
from core import jobs
from core.access.keys import Scope
from core.database.db import Session
from core.database.tables import Artifact
from core.errors import NotFound
from core.library import inputs, models

router = APIRouter(route_class=ClosedRoute, include_in_schema=False)
FOLDER = f"{browser.STATIC}netron/"
VIEW = "view"
_KINDS = {".js": "text/javascript", ".json": "application/json", ".css": "text/css", ".png": "image/png", ".ico": "image/x-icon"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self' blob: data:; "
    "worker-src 'self' blob:; frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
)
_HOME = re.compile(r'<meta name="(?:date|version)"[^>]*>|<meta http-equiv="Content-Security-Policy"[^>]*>')


@functools.cache
def folder() -> Path | None:
    """Where Netron's files are; None where it is not installed."""
    spec = find_spec("netron")
    return None if spec is None or not spec.submodule_search_locations else Path(spec.submodule_search_locations[0])


@functools.cache
def _names() -> frozenset[str]:
    found = folder()
    return frozenset() if found is None else frozenset(path.name for path in found.iterdir() if path.suffix in _KINDS)


@functools.cache
def _view() -> str:
    found = folder()
    assert found is not None
    text = _HOME.sub("", (found / "index.html").read_text(encoding="utf-8"))
    return text.replace('<meta charset="utf-8">', '<meta charset="utf-8"><meta name="version" content="0.0.0">', 1)


@router.get("/jobs/{job_id}/network/{side}")
def network(
    *,
    request: Request,
    session: Reading,
    principal: ReadsJobs,
    service: TheService,
    job_id: JobId,
    side: Literal["before", "after"],
    cb: Annotated[str, Query(max_length=40)] = "",
) -> Response:
    """The file that the viewer draws; `cb` differs each time, as the viewer has it."""
    if side == "before":
        principal.require(Scope.MODELS_READ)
        model, blob = models.content(session, principal.project_id, jobs.get(session, principal.project_id, job_id).model_id or "")
        return ContentResponse(request, Stored(service.blobs, blob), filename=model.name)
    principal.require(Scope.ARTIFACTS_READ)
    row = published(session, principal.project_id, job_id)
    if row is None:
        raise NotFound(f"{job_id} has published no network")
    return ContentResponse(request, Stored(service.blobs, inputs.content(session, row)), filename=row.filename)


def published(session: Session, project_id: str, job_id: str) -> Artifact | None:
    """The network that a job published, the first where there are several. Raises `not_found`."""
    return next((row for row in jobs.artifacts(session, project_id, job_id) if row.kind == "model"), None)


@router.get("/static/netron/{filename}")
def viewer(
    filename: Annotated[str, InPath(max_length=100)],
    url: Annotated[str, Query(max_length=200)] = "",
    identifier: Annotated[str, Query(max_length=300)] = "",
    cb: Annotated[str, Query(max_length=40)] = "",
) -> Response:
    """A file of Netron's; `view` is its page, which draws the network at `url`, an address of this service. `cb` differs each time."""
    if filename == VIEW and folder() is not None:
        headers = {
            "Content-Security-Policy": _POLICY,
            "X-Frame-Options": "SAMEORIGIN",
            "Set-Cookie": f"consent=1; Path={FOLDER}; SameSite=Strict",
            "Cache-Control": "no-store",
        }
        return Response(_view(), media_type="text/html", headers=headers)
    found = folder()
    if found is None or filename not in _names():
        raise NotFound(f"nothing is at {FOLDER}{filename[:100]}")
    path = found / filename
    # Its worker may load nothing from elsewhere, either.
    headers = {"Cache-Control": "public, max-age=86400", "Content-Security-Policy": _POLICY}
    return Response(path.read_bytes(), media_type=_KINDS[path.suffix], headers=headers)
