"""A new job: a form made of the methods' own schemas, or YAML; checked while it is written, as `POST /v1/jobs/validate` does."""

import functools
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from api.deps import TheService, WritesJobs
from api.http import documents
from api.http.beside import beside
from api.http.routing import ClosedRoute
from api.pages import fields
from api.pages.change import change
from api.pages.fields import Field
from api.pages.forms import Form, Sent
from api.pages.rendering import Content, View, framed, render, show
from api.pages.words import yaml_text
from api.routes.methods import describe
from core import jobs
from core.access.keys import Principal, Scope
from core.database.db import Session
from core.database.listing import Listing
from core.errors import MalformedRequest, ServiceError
from core.jobs import Submission, idempotency, planning
from core.library import datasets, models
from core.service import Service
from engine.contract.method import catalogue
from engine.contract.spec import json_schema

router = APIRouter(route_class=ClosedRoute, include_in_schema=False)
MOST_STEPS = 16
MOST_CHOICES = 100
FIRST = ("name", "model", "dataset")
"""What a spec cannot do without stands above its steps."""
LATER = ("quantize", "steps")
"""What has a form of its own, or stands for one."""
_MODE = Literal["form", "yaml"]


@dataclass(frozen=True)
class Step:
    """One step of the form."""

    index: int
    method: str
    title: str
    summary: str
    main: tuple[Field, ...]
    more: tuple[Field, ...]


@dataclass(frozen=True)
class Draft:
    """A job that is being written."""

    mode: _MODE
    text: str
    """As YAML."""
    head: Mapping[str, str]
    steps: tuple[Step, ...]
    rest: tuple[Field, ...]
    document: Any
    errors: Mapping[str, str]
    """What cannot be read of it, by JSON pointer."""
    submission: str
    """What makes two clicks one job."""


@router.get("/new")
async def new_page(
    *,
    request: Request,
    principal: WritesJobs,
    mode: _MODE = "form",
    model: Annotated[str, Query(max_length=80)] = "",
    dataset: Annotated[str, Query(max_length=80)] = "",
    method: Annotated[str, Query(max_length=80)] = "",
    job: Annotated[str | None, Query(max_length=80)] = None,
) -> Response:
    """An empty form, or a job's spec to be changed."""
    form = Form({"mode": [str(mode)], "model": [model], "dataset": [dataset]})
    if method in catalogue():
        _add(form, method)
    return await show(request, principal, partial(_begun, form=form, job_id=job))


def _begun(view: View, *, form: Form, job_id: str | None) -> Content:
    if job_id is not None:
        form = Form(mode=["yaml"], yaml=[yaml_text(jobs.get(view.session, view.project_id, job_id).spec)])
    elif form.text("mode") == "yaml":
        form["yaml"] = [yaml_text(_draft(form).document)]
    return _page(view, draft=_draft(form), verdict=None, refused=None)


@router.post("/new")
async def change_draft(request: Request, principal: WritesJobs, form: Sent, service: TheService) -> Response:
    """Change the form's steps, check it, or submit it."""
    action, _, which = form.text("action").partition(":")
    if action == "add" and form.text("add_method") in catalogue():
        _add(form, form.text("add_method"))
    elif action == "remove" and which.isdecimal():
        _without(form, int(which))
    elif action == "yaml":
        form |= {"mode": ["yaml"], "yaml": [yaml_text(_draft(form).document)]}
    draft, submission = await _read(form)
    verdict, refused = None, None
    if action in ("check", "submit"):
        if action == "submit" and submission is not None:
            try:
                job_id = await change(request, partial(_create, service=service, principal=principal, draft=draft, submission=submission))
                return RedirectResponse(f"/jobs/{job_id}", 303)
            except ServiceError as error:
                refused = error
        verdict = await run_in_threadpool(_verdict, service, principal, submission)
    content = await run_in_threadpool(_shown, service, principal, partial(_page, draft=draft, verdict=verdict, refused=refused))
    return framed(request, content)


@router.post("/new/check")
async def check(request: Request, principal: WritesJobs, form: Sent, service: TheService) -> Response:
    """The verdict on what is being written."""
    draft, submission = await _read(form)
    verdict = await run_in_threadpool(_verdict, service, principal, submission)
    return framed(request, _verdict_part(draft, verdict))


def _verdict_part(draft: Draft, verdict: Any) -> Content:
    return Content("New job", render("verdict.html", draft=draft, verdict=verdict, refused=None), "new")


async def _read(form: Form) -> tuple[Draft, Submission | None]:
    size = sum(len(value) for values in form.values() for value in values)
    quick = documents.is_quick(b" " * size, "application/yaml")
    return await beside(_submitted, form, quick=quick)


def _submitted(form: Form) -> tuple[Draft, Submission | None]:
    draft = _draft(form)
    return draft, None if draft.errors else Submission.read(draft.document)


def _create(session: Session, *, service: Service, principal: Principal, draft: Draft, submission: Submission) -> str:
    key = idempotency.request(f"page-{draft.submission}", yaml_text(submission.document), keep_seconds=service.settings.idempotency_seconds)
    return jobs.create(session, service.settings, principal.project_id, submission, idempotent=key).job.id


def _verdict(service: Service, principal: Principal, submission: Submission | None) -> dict[str, Any] | ServiceError | None:
    if submission is None:
        return None
    with service.database.reader() as session:
        try:
            return planning.validate(session, service.settings, principal.project_id, submission)
        except ServiceError as error:
            return error


def _shown(service: Service, principal: Principal, make: Any) -> Content:
    with service.database.reader() as session:
        content: Content = make(View(service, session, principal))
        return content


def _page(view: View, *, draft: Draft, verdict: Any, refused: ServiceError | None) -> Content:
    errors = dict(draft.errors)
    for error in (verdict or {}).get("errors", ()) if isinstance(verdict, dict) else ():
        errors.setdefault(error["pointer"], error["detail"] + (f" ({error['hint']})" if error["hint"] else ""))
    steps = [(step, fields.marked(step.main, errors), fields.marked(step.more, errors)) for step in draft.steps]
    rest = fields.marked(draft.rest, errors)
    return view.page(
        "new.html",
        "New job",
        "new",
        draft=draft,
        steps=steps,
        targets=[field for field in rest if field.path == "constraints"],
        rest=[field for field in rest if field.path != "constraints"],
        verdict=verdict,
        refused=refused,
        models=_models(view, draft.head.get("model", "")),
        datasets=_datasets(view, draft.head.get("dataset", "")),
        families=_families(),
    )


def _models(view: View, chosen: str) -> list[tuple[str, str]] | None:
    """The latest models to choose from; None where the key may not read them."""
    if not view.may(Scope.MODELS_READ):
        return None
    found = [(item.id, item.name) for item in models.search(view.session, view.project_id, Listing(limit=MOST_CHOICES)).data]
    return found if not chosen or chosen in dict(found) else [(chosen, chosen), *found]


def _datasets(view: View, chosen: str) -> list[tuple[str, str]] | None:
    if not view.may(Scope.DATASETS_READ):
        return None
    found = [(item.id, item.name) for item in datasets.search(view.session, view.project_id, Listing(limit=MOST_CHOICES)).data]
    return found if not chosen or chosen in dict(found) else [(chosen, chosen), *found]


@functools.cache
def _families() -> dict[str, list[tuple[str, str]]]:
    """Methods to choose from, by family."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name in catalogue():
        method = describe(name)
        if method.available:
            found.setdefault(method.family, []).append((name, method.title))
    return found


@functools.cache
def step_fields(method: str) -> tuple[Field, ...]:
    """The fields of a method's parameters, at step 0."""
    schema = describe(method).params_schema
    return fields.fields_of(schema, schema.get("$defs", {}), "steps.0", without=("method",))


@functools.cache
def _rest() -> tuple[Field, ...]:
    schema = json_schema()
    return fields.fields_of(schema, schema["$defs"], "", without=(*FIRST, *LATER))


def _at(found: tuple[Field, ...], index: int) -> tuple[Field, ...]:
    return tuple(
        replace(field, path=field.path.replace("steps.0.", f"steps.{index}.", 1), fields=_at(field.fields, index)) for field in found
    )


def _methods(form: Form) -> list[str]:
    """The methods of the form's steps, in order."""
    found = [form.text(f"steps.{index}.method") for index in range(MOST_STEPS)]
    return [method for method in found if method in catalogue()]


def _draft(form: Form) -> Draft:
    submission = form.text("submission") or secrets.token_hex(16)
    if form.text("mode") == "yaml":
        text, errors, document = form.text("yaml"), {}, None
        try:
            document = documents.parse(text.encode(), "application/yaml")
        except MalformedRequest as error:
            errors = {"": error.message}
        return Draft("yaml", text, {}, (), (), document, errors, submission)
    steps, errors = [], {}
    head = {name: form.text(name) for name in FIRST}
    document = {name: value for name, value in head.items() if value}
    document["steps"] = []
    for index, method in enumerate(_methods(form)):
        found = fields.given(_at(step_fields(method), index), form)
        values, wrong = fields.read(found)
        document["steps"].append({"method": method, **values})
        errors |= wrong
        steps.append(_step(index, method, found))
    rest = fields.given(_rest(), form)
    values, wrong = fields.read(rest)
    pointers = {"/" + path.replace(".", "/"): message for path, message in (errors | wrong).items()}
    return Draft("form", "", head, tuple(steps), rest, document | values, pointers, submission)


def _step(index: int, method: str, found: tuple[Field, ...]) -> Step:
    described = describe(method)
    usual = {name for example in described.examples for name in example}
    main = tuple(field for field in found if field.required or field.path.rpartition(".")[2] in usual)
    more = tuple(field for field in found if field not in main)
    return Step(index, method, described.title, described.description.partition("\n\n")[0], main, more)


def _add(form: Form, method: str) -> None:
    """One step more, as the method's first example has it."""
    index = len(_methods(form))
    if index == MOST_STEPS:
        return
    form[f"steps.{index}.method"] = [method]
    examples = describe(method).examples
    for name, value in fields.written(_at(step_fields(method), index), examples[0] if examples else {}):
        form[name] = [value]


def _without(form: Form, gone: int) -> None:
    """One step less; those behind it move up."""
    kept: dict[str, list[str]] = {}
    for name, values in form.items():
        number, _, what = name.removeprefix("steps.").partition(".")
        place = int(number) if name.startswith("steps.") and number.isdecimal() else -1
        if place != gone:
            kept[f"steps.{place - 1}.{what}" if place > gone else name] = values
    form.clear()
    form.update(kept)
