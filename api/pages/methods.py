"""The methods of this installation, for people."""

from dataclasses import dataclass
from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.http.routing import ClosedRoute
from api.pages.fields import Field
from api.pages.new import step_fields
from api.pages.rendering import Content, View, show
from api.pages.words import yaml_text
from api.routes.methods import Method, describe
from core.errors import NotFound
from engine.contract.method import catalogue
from engine.contract.sentences import suggestion

router = APIRouter(route_class=ClosedRoute, include_in_schema=False)
EFFECTS = {
    "smaller": "smaller file",
    "only_compressed": "smaller once it is compressed",
    "faster": "faster",
    "depends_on_hardware": "faster on some hardware",
    "unchanged": "",
}


@dataclass(frozen=True)
class Entry:
    """A method in the list."""

    name: str
    method: Method
    summary: str
    effects: tuple[str, ...]


@router.get("/methods")
async def methods_page(request: Request) -> Response:
    """Every method, by family."""
    return await show(request, request.state.principal, _list)


@router.get("/methods/{name}")
async def method_page(request: Request, name: str) -> Response:
    """One method."""
    return await show(request, request.state.principal, partial(_method, name=name))


def _list(view: View) -> Content:
    families: dict[str, list[Entry]] = {}
    for name in catalogue():
        entry = _entry(name)
        families.setdefault(entry.method.family, []).append(entry)
    return view.page("methods.html", "Methods", "methods", families=families)


def _entry(name: str) -> Entry:
    method = describe(name)
    effects = tuple(word for word in (EFFECTS[method.effect.file_size], EFFECTS[method.effect.dense_latency]) if word)
    return Entry(name, method, method.description.partition("\n\n")[0].replace("\n", " "), effects)


def _method(view: View, *, name: str) -> Content:
    if name not in catalogue():
        raise NotFound(f"there is no method {name[:80]!r}", hint=suggestion(name, catalogue()))
    entry = _entry(name)
    paragraphs = entry.method.description.split("\n\n")
    examples = [yaml_text({"steps": [example]}) for example in entry.method.examples]
    return view.page(
        "method.html",
        entry.method.title,
        "methods",
        entry=entry,
        method=entry.method,
        paragraphs=paragraphs,
        rows=list(_rows(step_fields(name))),
        examples=examples,
    )


def _rows(found: tuple[Field, ...]) -> list[tuple[str, Field]]:
    rows = []
    for field in found:
        rows.append((field.path.removeprefix("steps.0."), field))
        rows += _rows(field.fields)
    return rows
