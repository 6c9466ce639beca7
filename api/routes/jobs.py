"""Jobs: submit a spec, ask how it goes, stop it, run it again."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from api.deps import JobId, Live, Reading, ReadsJobs, TheLive, TheService, WritesJobs, check_key
from api.documentation.examples import SPEC_YAML, SPECS
from api.http import conditional, documents, headers, problems
from api.http.beside import beside
from api.http.errors import InvalidBody
from api.http.idempotency import IdempotencyKey, asked_under, replayed_headers
from api.http.routing import ClosedRoute
from api.live.hot import Rendered, render
from api.schemas.common import ORDER, After, LabelFilter, Limit, Moment, Name, page_of
from core import jobs
from core.access.keys import Principal
from core.jobs import TERMINAL, Submission, planning
from core.service import Service
from engine.contract.figures import Outcome
from modelpress.resources.common import Page
from modelpress.resources.jobs import Job, ListedJob, Status, Verdict

router = APIRouter(route_class=ClosedRoute, tags=["jobs"])

_SPEC_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The spec, as JSON or YAML.",
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/Spec"}, "examples": SPECS},
            "application/yaml": {"schema": {"$ref": "#/components/schemas/Spec"}, "example": SPEC_YAML},
        },
    }
}
Prefer = Annotated[
    str | None,
    Header(description="`wait=N`: answer when something happened, after N seconds (at most 60) at the latest.", examples=["wait=10"]),
]


async def _submission(request: Request, service: TheService) -> Submission:
    body = await documents.read_body(request, service.settings.max_spec_bytes)
    content_type = request.headers.get("content-type")
    return await beside(_submitted, body, content_type, quick=documents.is_quick(body, content_type))


def _submitted(body: bytes, content_type: str | None) -> Submission:
    return Submission.read(documents.parse(body, content_type))


Submitted = Annotated[Submission, Depends(_submission)]


async def _nothing(request: Request) -> None:
    """These routes take no fields: an empty object is as good as no body."""
    body = await documents.read_body(request, 1024)
    if body.strip() not in (b"", b"{}"):
        raise InvalidBody("this takes no body", hint="send no body")


NoFields = Annotated[None, Depends(_nothing)]


@router.post(
    "/v1/jobs",
    operation_id="create_job",
    status_code=202,
    response_model=Job,
    openapi_extra=_SPEC_BODY,
    responses=problems.responses(400, 404, 409, 413, 415, 422, 429),
)
async def create_job(
    *,
    request: Request,
    principal: WritesJobs,
    submission: Submitted,
    live: TheLive,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> Response:
    """Submit a spec. The whole spec is validated first; the job is safely stored when the answer comes.

    With `Prefer: wait=N` the answer comes when the job has ended, or after N seconds as it then is.
    """
    make = partial(jobs.create, project_id=principal.project_id, submission=submission)
    created = await run_in_threadpool(made, live.service, idempotency_key, ("create", submission.document), make)
    return await accepted(request, live, principal, *created)


def made(service: Service, key: str | None, asked: tuple[Any, ...], make: Callable[..., jobs.Created]) -> tuple[str, bool]:
    """The id of the job that `make` makes, or made when the same was `asked` under the key before, and whether it did."""
    idempotent = asked_under(service, key, *asked)
    with service.database.unit_of_work() as session:
        created = make(session, settings=service.settings, idempotent=idempotent)
    return created.job.id, created.replayed


@router.post(
    "/v1/jobs/validate",
    operation_id="validate_spec",
    response_model=Verdict,
    openapi_extra=_SPEC_BODY,
    responses=problems.responses(400, 404, 413, 415),
)
def validate_spec(principal: WritesJobs, submission: Submitted, session: Reading, service: TheService) -> Response:
    """What `POST /v1/jobs` would say and do, without doing it: the spec with every default, the plan, warnings, a rough estimate."""
    return JSONResponse(planning.validate(session, service.settings, principal.project_id, submission))


@router.get("/v1/jobs", operation_id="list_jobs", response_model=Page[ListedJob], responses=problems.responses(400, 422))
def list_jobs(
    *,
    request: Request,
    session: Reading,
    principal: ReadsJobs,
    status: Annotated[list[Status], Query(max_length=5, description="Any of these.")] = [],  # noqa: B006 - FastAPI copies it
    outcome: Annotated[Outcome | None, Query(description="Only jobs that came to this.")] = None,
    name: Name | None = None,
    label: LabelFilter = [],  # noqa: B006 - FastAPI copies it
    model_id: Annotated[str | None, Query(pattern=r"^mdl_[A-Za-z0-9]{1,40}$")] = None,
    dataset_id: Annotated[str | None, Query(pattern=r"^ds_[A-Za-z0-9]{1,40}$")] = None,
    created_after: Moment | None = None,
    created_before: Moment | None = None,
    expand: Annotated[
        list[Literal["spec", "normalized_spec", "warnings", "error.details"]],
        Query(
            max_length=4, description="What the list otherwise leaves out or shortens; a page then holds fewer jobs where they are long."
        ),
    ] = [],  # noqa: B006 - FastAPI copies it
    sort: Annotated[Literal["created_at", "-created_at"], Query(description=ORDER)] = "-created_at",
    limit: Limit = 20,
    after: After = None,
) -> Response:
    """The project's jobs, newest first, in short. A page may hold fewer than `limit` where they are long: `next_cursor` goes on."""
    rows = jobs.search(
        session,
        principal.project_id,
        status=status,
        outcome=outcome,
        name=name,
        label=label,
        model_id=model_id,
        dataset_id=dataset_id,
        created_after=created_after,
        created_before=created_before,
        expand=expand,
        sort=sort,
        limit=limit,
        after=after,
    )
    return page_of(request, rows, partial(jobs.listed, expand=expand))


@router.get(
    "/v1/jobs/{job_id}",
    operation_id="get_job",
    response_model=Job,
    openapi_extra=headers.documented("If-None-Match", "If-Match"),
    responses={304: {"description": "The job is as `If-None-Match` names it"}, **problems.responses(404, 412)},
)
async def get_job(
    *,
    request: Request,
    principal: ReadsJobs,
    live: TheLive,
    job_id: JobId,
    prefer: Prefer = None,
) -> Response:
    """One job. `ETag` and `If-None-Match` make polling cheap, `Retry-After` says when to look again.

    `Prefer: wait=N` with `If-None-Match` answers as soon as the job has changed; without it, as soon as the job has ended.
    """
    entry = live.hot.get(principal.project_id, job_id) or await fetch(live, principal, job_id)
    wait = conditional.wait_seconds(request.headers)
    known = request.headers.get("if-none-match")
    if wait and not entry.terminal and (known is None or conditional.matches(known, entry.etag)):
        version = entry.version
        request.state.held.end_turn()
        await live.watch.until(
            principal.project_id,
            job_id,
            lambda mark: mark is None or mark.status in TERMINAL or (known is not None and mark.version != version),
            wait,
        )
        await check_key(request)
        entry = await fetch(live, principal, job_id)
    unchanged = conditional.not_modified(request.headers, entry.etag)
    return _response(entry, 304 if unchanged else 200, wait)


@router.post(
    "/v1/jobs/{job_id}/cancel",
    operation_id="cancel_job",
    status_code=202,
    response_model=Job,
    responses={200: {"description": "The job is cancelled", "model": Job}, **problems.responses(404, 409, 413, 422)},
)
async def cancel_job(principal: WritesJobs, fields: NoFields, live: TheLive, job_id: JobId) -> Response:
    """Stop a job: a queued one at once (200), a running one as soon as its worker hears of it (202). Doing it twice changes nothing."""
    entry = await run_in_threadpool(_cancel, live.service, principal.project_id, job_id)
    live.changed(job_id)
    return _response(entry, 200 if entry.terminal else 202)


def _cancel(service: Service, project_id: str, job_id: str) -> Rendered:
    with service.database.unit_of_work() as session:
        job = jobs.cancel(session, project_id, job_id)
    return render(job)


@router.post(
    "/v1/jobs/{job_id}/retry",
    operation_id="retry_job",
    status_code=202,
    response_model=Job,
    responses=problems.responses(404, 409, 413, 422, 429),
)
async def retry_job(
    *,
    request: Request,
    principal: WritesJobs,
    fields: NoFields,
    live: TheLive,
    job_id: JobId,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> Response:
    """Run the spec of an ended job again, as a new job (`retry_of`)."""
    make = partial(jobs.retry, project_id=principal.project_id, job_id=job_id)
    created = await run_in_threadpool(made, live.service, idempotency_key, ("retry", job_id), make)
    return await accepted(request, live, principal, *created)


@router.delete("/v1/jobs/{job_id}", operation_id="delete_job", status_code=204, responses=problems.responses(404, 409))
async def delete_job(principal: WritesJobs, live: TheLive, job_id: JobId) -> Response:
    """Remove an ended job with its history and its artifacts; models promoted from them stay."""
    await run_in_threadpool(_delete, live.service, principal.project_id, job_id)
    live.changed(job_id)
    return Response(status_code=204)


def _delete(service: Service, project_id: str, job_id: str) -> None:
    with service.database.unit_of_work() as session:
        jobs.delete(session, project_id, job_id)


async def accepted(request: Request, live: Live, principal: Principal, job_id: str, replayed: bool) -> Response:
    """202 with the new job, after it has ended where the client prefers to wait for that."""
    wait = conditional.wait_seconds(request.headers)
    if wait:
        request.state.held.end_turn()
        await live.watch.until(principal.project_id, job_id, lambda mark: mark is None or mark.status in TERMINAL, wait)
        await check_key(request)
    response = _response(await fetch(live, principal, job_id), 202, wait)
    response.headers.update({"Location": f"/v1/jobs/{job_id}"} | replayed_headers(replayed))
    return response


async def fetch(live: Live, principal: Principal, job_id: str) -> Rendered:
    """The job from the database, remembered for those who ask next. Raises `not_found`."""
    return await live.hot.fetch(principal.project_id, job_id, partial(_read, live.service))


def _read(service: Service, project_id: str, job_id: str) -> Rendered:
    with service.database.reader() as session:
        return render(jobs.get(session, project_id, job_id))


def _response(entry: Rendered, status: int, wait: float | None = None) -> Response:
    named = {"ETag": entry.etag, "Cache-Control": "private, no-cache"}
    if entry.retry_after is not None:
        named["Retry-After"] = entry.retry_after
    if wait is not None:
        named["Preference-Applied"] = f"wait={wait:g}"
    if status == 304:
        return Response(status_code=304, headers=named)
    return Response(entry.body, status, named, "application/json")
