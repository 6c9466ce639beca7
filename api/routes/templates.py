"""Jobs that are made of what is there: of another job's spec, or of a template."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from api.deps import JobId, Reading, ReadsJobs, TemplateId, TheLive, TheService, WritesJobs, Writing
from api.http import documents, problems
from api.http.beside import beside
from api.http.errors import InvalidBody, RequestTooLarge
from api.http.fields import fields_of
from api.http.idempotency import IdempotencyKey
from api.http.routing import ClosedRoute
from api.http.words import PRINTABLE
from api.routes.jobs import Prefer, accepted, made
from api.schemas.common import After, Limit, Name, page_of
from core import jobs
from core.database.db import Session
from core.database.serialization import to_json
from core.jobs import Submission
from core.jobs.patch import merged
from core.library import templates
from core.service import Service
from modelpress.resources.common import Page
from modelpress.resources.jobs import Job, Template

router = APIRouter(route_class=ClosedRoute, tags=["jobs"])
_PATCH: dict[str, Any] = {
    "requestBody": {
        "required": False,
        "description": "A JSON Merge Patch (RFC 7396) of the spec, as JSON or YAML: null takes a field away, lists are replaced.",
        "content": {
            media_type: {"schema": {"$ref": "#/components/schemas/SpecPatch"}, "example": {"name": "again, smaller", "seed": 1}}
            for media_type in ("application/json", "application/merge-patch+json", "application/yaml")
        },
    }
}


class NewTemplate(BaseModel):
    """What the template is called, and the spec; `model` and `dataset` may be left to the jobs."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, json_schema_extra={"example": {"name": "int8", "spec": {"quantize": "int8"}}}
    )

    name: str = Field(min_length=1, max_length=200, pattern=PRINTABLE)
    description: str | None = Field(None, max_length=2000, pattern=r"^[^\x00]*$")
    spec: dict[str, Any]


async def _patch(request: Request, service: TheService) -> dict[str, Any]:
    body = await documents.read_body(request, service.settings.max_spec_bytes)
    if not body.strip():
        return {}
    content_type = request.headers.get("content-type")
    patch = await beside(documents.parse, body, content_type, quick=documents.is_quick(body, content_type))
    if not isinstance(patch, dict):
        raise InvalidBody("a patch of a spec is an object", hint='such as {"seed": 1}')
    return patch


Patch = Annotated[dict[str, Any], Depends(_patch)]
Find = Callable[[Session], dict[str, Any]]


async def _submission(service: Service, find: Find, patch: dict[str, Any]) -> Submission:
    """The patched spec, read. Raises `request_too_large` where specs that are made of specs grow beyond what a spec may be."""

    def base() -> dict[str, Any]:
        with service.database.reader() as session:
            return find(session)

    document = merged(await run_in_threadpool(base), patch)
    length = len(to_json(document))
    if length > service.settings.max_spec_bytes:
        raise RequestTooLarge(f"the patched spec has {length} bytes, it may have {service.settings.max_spec_bytes}")
    return await beside(Submission.read, document, quick=length <= documents.SMALL_BYTES)


@router.post(
    "/v1/jobs/{job_id}/rerun",
    operation_id="rerun_job",
    status_code=202,
    response_model=Job,
    openapi_extra=_PATCH,
    responses=problems.responses(400, 404, 409, 413, 415, 422, 429),
)
async def rerun_job(
    *,
    request: Request,
    principal: WritesJobs,
    patch: Patch,
    live: TheLive,
    job_id: JobId,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> Response:
    """Run a job's spec once more with changes, as a new job (`retry_of`); the other one may still be under way."""
    project_id = principal.project_id
    submission = await _submission(live.service, lambda session: dict(jobs.get(session, project_id, job_id).spec), patch)
    make = partial(jobs.rerun, project_id=project_id, job_id=job_id, submission=submission)
    created = await run_in_threadpool(made, live.service, idempotency_key, ("rerun", job_id, submission.document), make)
    return await accepted(request, live, principal, *created)


@router.post(
    "/v1/templates",
    operation_id="create_template",
    status_code=201,
    response_model=Template,
    responses=problems.responses(400, 413, 415, 422, 429),
)
async def create_template(
    principal: WritesJobs, service: TheService, wanted: Annotated[NewTemplate, Depends(fields_of(NewTemplate, documents.METADATA_BYTES))]
) -> Response:
    """Keep a spec, or a part of one, to make jobs of; it is validated as far as it goes."""
    await beside(templates.check, wanted.spec, quick=len(to_json(wanted.spec)) <= documents.SMALL_BYTES)
    body = await run_in_threadpool(_create, service, principal.project_id, wanted)
    return JSONResponse(body, 201, {"Location": body["urls"]["self"]})


def _create(service: Service, project_id: str, wanted: NewTemplate) -> dict[str, Any]:
    with service.database.unit_of_work() as session:
        return templates.body(templates.create(session, project_id, **wanted.model_dump()))


@router.get("/v1/templates", operation_id="list_templates", response_model=Page[Template], responses=problems.responses(400, 422))
def list_templates(
    *, request: Request, session: Reading, principal: ReadsJobs, name: Name | None = None, limit: Limit = 20, after: After = None
) -> Response:
    """The project's templates, newest first."""
    return page_of(request, templates.search(session, principal.project_id, name=name, limit=limit, after=after), templates.body)


@router.get("/v1/templates/{template_id}", operation_id="get_template", response_model=Template, responses=problems.responses(404))
def get_template(session: Reading, principal: ReadsJobs, template_id: TemplateId) -> Response:
    """One template."""
    return JSONResponse(templates.body(templates.get(session, principal.project_id, template_id)))


@router.delete("/v1/templates/{template_id}", operation_id="delete_template", status_code=204, responses=problems.responses(404))
def delete_template(session: Writing, principal: WritesJobs, template_id: TemplateId) -> Response:
    """Forget a template; jobs that were made of it stay."""
    templates.delete(session, principal.project_id, template_id)
    return Response(status_code=204)


@router.post(
    "/v1/templates/{template_id}/jobs",
    operation_id="create_job_of_template",
    status_code=202,
    response_model=Job,
    openapi_extra=_PATCH,
    responses=problems.responses(400, 404, 409, 413, 415, 422, 429),
)
async def create_job_of_template(
    *,
    request: Request,
    principal: WritesJobs,
    patch: Patch,
    live: TheLive,
    template_id: TemplateId,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> Response:
    """Submit a template's spec, with the model, the dataset and whatever else the patch gives."""
    project_id = principal.project_id
    submission = await _submission(live.service, lambda session: dict(templates.get(session, project_id, template_id).spec), patch)
    make = partial(jobs.create, project_id=project_id, submission=submission)
    created = await run_in_threadpool(made, live.service, idempotency_key, ("template", template_id, submission.document), make)
    return await accepted(request, live, principal, *created)
