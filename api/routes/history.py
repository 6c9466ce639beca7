"""The record of a job: events, log, series of metrics."""

from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response

from api.deps import JobId, Reading, ReadsJobs, TheLive, check_key
from api.http import problems
from api.http.content import HEADERS, ContentResponse, InMemory
from api.http.routing import ClosedRoute
from api.http.words import Word
from api.live.sse import CURSOR, Asked, EventStream, sequence
from api.live.watch import Frame, News
from api.routes.jobs import fetch
from api.schemas.common import Limit
from core import jobs
from core.database.db import Session
from core.database.serialization import to_json
from core.errors import NotFound
from core.service import Service
from modelpress.resources.common import Page
from modelpress.resources.jobs import Event, SeriesList

router = APIRouter(route_class=ClosedRoute, tags=["jobs"])
AfterEvent = Annotated[
    str | None,
    Query(max_length=200, description="Id or number of the last event that was seen.", json_schema_extra={"pattern": CURSOR}),
]
_REPLAY_PAGE = 200


@router.get("/v1/jobs/{job_id}/events", operation_id="list_events", response_model=Page[Event], responses=problems.responses(400, 404, 422))
def list_events(
    *,
    session: Reading,
    principal: ReadsJobs,
    job_id: JobId,
    type: Annotated[list[Word], Query(max_length=32, description="Only these types.", examples=[["started", "succeeded"]])] = [],  # noqa: B006 - FastAPI copies it
    limit: Limit = 100,
    after: AfterEvent = None,
) -> Response:
    """A job's history, oldest first; it is only ever appended to."""
    jobs.version(session, principal.project_id, job_id)
    found = jobs.events(session, job_id, after=sequence(after), limit=limit + 1, types=type)
    page, more = found[:limit], len(found) > limit
    data = [jobs.event_body(event) for event in page]
    return JSONResponse({"object": "list", "data": data, "has_more": more, "next_cursor": data[-1]["id"] if more else None})


@router.get(
    "/v1/jobs/{job_id}/events/stream",
    operation_id="stream_events",
    response_class=Response,
    responses={
        200: {"description": "Server-sent events", "content": {"text/event-stream": {}}},
        **problems.responses(400, 404),
    },
)
async def stream_events(
    *,
    request: Request,
    principal: ReadsJobs,
    live: TheLive,
    job_id: JobId,
    last_event_id: Annotated[
        str | None,
        Header(description="Id of the last event that was seen; the stream goes on after it.", json_schema_extra={"pattern": CURSOR}),
    ] = None,
    after: AfterEvent = None,
) -> Response:
    """Replay a job's events and follow them until it has ended (`event: end`)."""
    seen = sequence(last_event_id or after)
    if live.hot.get(principal.project_id, job_id) is None:
        await fetch(live, principal, job_id)
    asked = Asked(principal.project_id, job_id, seen)
    return EventStream(live.watch, partial(replay, live.service, job_id), asked, partial(check_key, request))


def replay(service: Service, job_id: str, seen: int) -> list[Frame]:
    """The next events after number `seen`, as they are streamed."""
    with service.database.reader() as session:
        return _frames(session, job_id, seen)


def news(service: Service, project_id: str, job_id: str, after: int | None) -> News:
    """What all the clients of a changed job are sent: its new events (none where `after` is None) and its progress."""
    frames: list[Frame] = []
    cut = False
    with service.database.reader() as session:
        if after is not None:
            frames = _frames(session, job_id, after)
            # A full page is more than was ever asked for between two looks: what comes after it is left to those who follow.
            cut = len(frames) == _REPLAY_PAGE
        try:
            progress = _progress(jobs.body(jobs.get(session, project_id, job_id)))
        except NotFound:
            progress = b""
    return News((), progress, cut=True) if cut else News(frames, progress)


def _frames(session: Session, job_id: str, after: int) -> list[Frame]:
    return [
        Frame(event.seq, _frame(event.type, jobs.event_body(event), event_id=True))
        for event in jobs.events(session, job_id, after=after, limit=_REPLAY_PAGE)
    ]


def _progress(body: dict[str, Any]) -> bytes:
    progress = {key: body[key] for key in ("status", "phase", "progress", "attempt")}
    return _frame("progress", {"object": "progress", "job_id": body["id"], **progress})


def _frame(name: str, body: dict[str, Any], *, event_id: bool = False) -> bytes:
    identity = f"id: {body['id']}\n" if event_id else ""
    return f"{identity}event: {name}\ndata: {to_json(body)}\n\n".encode()


@router.get(
    "/v1/jobs/{job_id}/logs",
    operation_id="get_logs",
    response_class=Response,
    openapi_extra=HEADERS,
    responses={
        200: {"description": "The log", "content": {"text/plain": {"schema": {"type": "string"}}, "application/x-ndjson": {}}},
        206: {"description": "The bytes that `Range` asked for"},
        304: {"description": "The log is the one that `If-None-Match` names"},
        **problems.responses(404, 412, 416, 422),
    },
)
def get_logs(
    *,
    request: Request,
    session: Reading,
    principal: ReadsJobs,
    job_id: JobId,
    tail: Annotated[int | None, Query(ge=1, le=100_000, description="Only the last lines.")] = None,
    format: Annotated[Literal["text", "json"], Query(description="`json`: one object a line with `at`, `level` and `message`.")] = "text",
) -> Response:
    """A job's log: phases, steps, figures of each epoch, warnings and errors as dated lines, and what libraries printed, as it is.

    Plain text, or one JSON object a line; `Range: bytes=N-` gives what was added since. `at` and `level` are null in what was printed.
    """
    jobs.version(session, principal.project_id, job_id)
    text = b"".join(jobs.log(session, job_id))
    if tail is not None:
        text = b"".join(text.splitlines(keepends=True)[-tail:])
    if format == "json":
        text = b"".join(to_json(jobs.log_line(line)).encode() + b"\n" for line in text.decode(errors="replace").split("\n")[:-1])
        return ContentResponse(request, InMemory(text), media_type="application/x-ndjson")
    return ContentResponse(request, InMemory(text), media_type="text/plain; charset=utf-8")


@router.get("/v1/jobs/{job_id}/metrics", operation_id="get_metrics", response_model=SeriesList, responses=problems.responses(404, 422))
def get_metrics(
    session: Reading,
    principal: ReadsJobs,
    job_id: JobId,
    name: Annotated[list[Word], Query(max_length=100, description="Only these series.", examples=[["train.loss"]])] = [],  # noqa: B006 - FastAPI copies it
    max_points: Annotated[
        int, Query(ge=2, le=10_000, description="Longer series are thinned out evenly; the last point always stays.")
    ] = 500,
) -> Response:
    """Everything that was measured while the job ran, as series such as `train.loss`; an attempt that was repeated has its own."""
    jobs.version(session, principal.project_id, job_id)
    found = jobs.series(session, job_id, names=name, max_points=max_points)
    return JSONResponse({"object": "list", "data": found, "has_more": False, "next_cursor": None})
