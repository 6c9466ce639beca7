"""What the `type` of a problem leads to: what the code means, and what to do. Anybody may read it."""

from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from api.codes.catalogue import entries
from api.http.routing import ClosedRoute
from api.pages.rendering import Content, framed, render
from core.errors import NotFound
from engine.contract.sentences import suggestion

router = APIRouter(route_class=ClosedRoute, include_in_schema=False)


@router.get("/problems")
def problems_page(request: Request) -> Response:
    """Every code."""
    return framed(request, Content("Problems", render("problems.html", entries=list(entries().values()))))


@router.get("/problems/{slug}")
def problem_page(request: Request, slug: Annotated[str, Path(max_length=100)]) -> Response:
    """One code."""
    code = slug.replace("-", "_")
    if code not in entries():
        raise NotFound(f"there is no code {code[:80]!r}", hint=suggestion(code, entries()))
    entry = entries()[code]
    return framed(request, Content(entry.title, render("problem.html", entry=entry)))
