"""The start page: the project's jobs, how far they are, and what came of them."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import ValidationError

from api.deps import ReadsJobs
from api.http.routing import ClosedRoute
from api.http.words import Word
from api.pages.rendering import Content, View, show
from api.pages.words import OUTCOMES, first_metric
from api.schemas.common import After
from core import jobs
from core.database.paging import Page
from core.database.tables import Job, Model
from core.jobs import TERMINAL
from engine.contract.display import Column
from engine.contract.figures import Summary
from engine.contract.method import catalogue
from modelpress.resources.jobs import Status

router = APIRouter(route_class=ClosedRoute, include_in_schema=False)
PAGE_JOBS = 25
STATUSES = ("queued", "running", "succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Gain:
    """What a job came to, in the figures that a list has room for."""

    before_bytes: int
    after_bytes: int
    file_ratio: float | None
    metric: str
    """What the quality is called; empty where none was measured."""
    key: str
    after: float | None
    change: float | None
    speedup: float
    speed: str

    @classmethod
    def of(cls, summary: Summary) -> "Gain":
        """Of a summary."""
        key = first_metric(summary.result.metrics)
        compared = summary.comparison
        return cls(
            before_bytes=summary.baseline.file_bytes,
            after_bytes=summary.result.file_bytes,
            file_ratio=compared.file_ratio,
            metric=Column.of(key).title if key else "",
            key=key or "",
            after=summary.result.metrics[key] if key else None,
            change=compared.metric_changes.get(key) if key else None,
            speedup=compared.latencies[0].speedup,
            speed=summary.verdict,
        )


@dataclass(frozen=True)
class Row:
    """One job of the list."""

    job: Job
    title: str
    model: str
    live: bool
    fraction: float
    message: str
    outcome: str
    gain: Gain | None


def title_of(job: Job) -> str:
    """A job's name, or what it does where it has none."""
    return job.name or steps_text([step["method"] for step in job.steps]) or job.id


def summary_of(job: Job) -> Summary | None:
    """A job's figures; None where it has none, or where another version wrote them and this one cannot read them."""
    with contextlib.suppress(ValidationError):
        return Summary.model_validate(job.summary) if job.summary else None
    return None


def steps_text(methods: Sequence[str]) -> str:
    """Steps in a few words."""
    known = catalogue()
    return ", ".join(known[name].title if name in known else name for name in methods)


def row(job: Job, names: dict[str, str]) -> Row:
    """A job as the list shows it."""
    progress = job.progress or {}
    return Row(
        job=job,
        title=title_of(job),
        model=names.get(job.model_id or "", job.model_id or "–"),
        live=job.status not in TERMINAL,
        fraction=progress.get("fraction", 0.0),
        message=progress.get("message", ""),
        outcome=OUTCOMES.get(job.outcome or "", ""),
        gain=Gain.of(summary) if (summary := summary_of(job)) else None,
    )


@router.get("/")
async def jobs_page(
    *,
    request: Request,
    principal: ReadsJobs,
    status: Annotated[list[Status], Query(max_length=5)] = [],  # noqa: B006 - FastAPI copies it
    label: Annotated[list[Word], Query(max_length=16)] = [],  # noqa: B006 - FastAPI copies it
    after: After = None,
) -> Response:
    """The jobs, newest first."""
    return await show(request, principal, partial(_page, statuses=status, labels=label, after=after, here=str(request.url.query)))


def _page(view: View, *, statuses: Sequence[str], labels: Sequence[str], after: str | None, here: str) -> Content:
    found: Page[Job] = jobs.search(view.session, view.project_id, status=statuses, label=labels, limit=PAGE_JOBS, after=after)
    names = view.names(Model, (job.model_id for job in found.data))
    rows = [row(job, names) for job in found.data]
    return view.page(
        "jobs.html",
        "Jobs",
        "jobs",
        rows=rows,
        live=any(item.live for item in rows),
        statuses=STATUSES,
        chosen=tuple(statuses),
        labels=tuple(labels),
        first=after is None,
        filtered=bool(statuses or labels or after),
        older=found.next_cursor,
        here=here,
    )
