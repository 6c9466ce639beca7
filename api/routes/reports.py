"""The report of a finished job: the JSON document that the worker published, and its readable forms."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.deps import JobId, Reading, ReadsJobs, TheService
from api.http import content, problems
from api.http.reports import MOST_DRAWN_BYTES, document
from api.http.routing import ClosedRoute
from core import jobs
from core.library import artifacts
from engine.reporting.document import to_html, to_markdown
from engine.reporting.partial import partial_html, partial_markdown

router = APIRouter(route_class=ClosedRoute, tags=["jobs"])
_PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; base-uri 'none'; sandbox allow-downloads"
)


def _responses(media_type: str, schema: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {
        200: {"description": "The report", "content": {media_type: {"schema": schema}}},
        206: {"description": "The bytes that `Range` asked for"},
        304: {"description": "The report is the one that `If-None-Match` names"},
        **problems.responses(404, 412, 416, 422),
    }


@router.get(
    "/v1/jobs/{job_id}/report.json",
    operation_id="get_report",
    response_class=Response,
    openapi_extra=content.HEADERS,
    responses=_responses("application/json", {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("Report", "PartialReport")]}),
)
def get_report(request: Request, session: Reading, principal: ReadsJobs, service: TheService, job_id: JobId) -> Response:
    """Before and after: figures measured the same way on both files, steps, constraints, layers, environment.

    Of a job that failed or was cancelled, how far it came: phases, steps, series, what was measured of the uploaded model, and the error.
    """
    blob = artifacts.report_of(session, principal.project_id, job_id)
    if blob is None:
        found = jobs.partial_report(session, principal.project_id, job_id)
        return content.document(request, found.model_dump_json().encode(), "application/json")
    if blob.size_bytes > MOST_DRAWN_BYTES or content.coding_of(request) is None:
        return content.ContentResponse(request, content.Stored(service.blobs, blob), media_type="application/json", named=content.VARIES)
    return content.document(request, service.blobs.read_all(blob), "application/json")


@router.get(
    "/v1/jobs/{job_id}/report.html",
    operation_id="get_report_html",
    response_class=Response,
    openapi_extra=content.HEADERS,
    responses=_responses("text/html", {"type": "string"}),
)
def get_report_html(request: Request, session: Reading, principal: ReadsJobs, service: TheService, job_id: JobId) -> Response:
    """The report as one page that needs nothing else."""
    blob = artifacts.report_of(session, principal.project_id, job_id)
    if blob is None:
        return _page(request, partial_html(jobs.partial_report(session, principal.project_id, job_id)))
    found = document(service, blob)
    links = {row.filename: f"/v1/artifacts/{row.id}/content" for row in jobs.artifacts(session, principal.project_id, job_id)}
    return _page(request, to_html(found, links))


def _page(request: Request, page: str) -> Response:
    response = content.document(request, page.encode(), "text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = _PAGE_POLICY
    return response


@router.get(
    "/v1/jobs/{job_id}/report.md",
    operation_id="get_report_markdown",
    response_class=Response,
    openapi_extra=content.HEADERS,
    responses=_responses("text/markdown", {"type": "string"}),
)
def get_report_markdown(request: Request, session: Reading, principal: ReadsJobs, service: TheService, job_id: JobId) -> Response:
    """The report as Markdown, for a pull request or a model card."""
    blob = artifacts.report_of(session, principal.project_id, job_id)
    if blob is None:
        text = partial_markdown(jobs.partial_report(session, principal.project_id, job_id))
    else:
        text = to_markdown(document(service, blob))
    return content.document(request, text.encode(), "text/markdown; charset=utf-8")
