"""One job: what came of it, and everything behind that, a tab each."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import RedirectResponse, Response

from api.deps import JobId, ReadsJobs, TheLive, WritesJobs
from api.http import reports
from api.http.errors import ReportTooLarge, ReportUnreadable
from api.http.routing import ClosedRoute
from api.pages import tabs
from api.pages.change import change
from api.pages.forms import Sent
from api.pages.graph import folder
from api.pages.jobs import row, title_of
from api.pages.rendering import Content, View, render, show
from api.schemas.common import After
from core import jobs
from core.access.keys import Scope
from core.database.db import Session
from core.database.tables import Dataset, Model
from core.errors import NotFound
from core.jobs import TERMINAL
from core.library import artifacts
from engine.contract.report import Report

router = APIRouter(route_class=ClosedRoute, include_in_schema=False)
Tab = Literal["settings", "steps", "training", "layers", "graph", "artifacts", "logs", "spec", "events"]
NAMES = {
    "summary": "Summary",
    "settings": "Settings",
    "steps": "Steps",
    "training": "Training",
    "layers": "Layers",
    "graph": "Graph",
    "artifacts": "Artifacts",
    "logs": "Logs",
    "spec": "Spec",
    "events": "Events",
}


@dataclass(frozen=True)
class Asked:
    """Which part of a tab's list is wanted."""

    lines: int = 300
    after: str | None = None


@router.get("/jobs/{job_id}")
async def summary_page(request: Request, principal: ReadsJobs, job_id: JobId) -> Response:
    """What came of the job."""
    return await show(request, principal, partial(_page, job_id=job_id, tab="summary", asked=Asked()))


@router.get("/jobs/{job_id}/live")
async def live_part(request: Request, principal: ReadsJobs, job_id: JobId) -> Response:
    """How far the job is; when it has ended, the word to load the page anew."""
    return await show(request, principal, partial(_live, job_id=job_id))


@router.get("/jobs/{job_id}/{tab}")
async def tab_page(
    *,
    request: Request,
    principal: ReadsJobs,
    job_id: JobId,
    tab: Annotated[Tab, Path()],
    lines: Annotated[int, Query(ge=1, le=5000)] = 300,
    after: After = None,
) -> Response:
    """One tab of the job."""
    return await show(request, principal, partial(_page, job_id=job_id, tab=tab, asked=Asked(lines, after)))


@router.post("/jobs/{job_id}/cancel")
async def cancel(request: Request, principal: WritesJobs, form: Sent, live: TheLive, job_id: JobId) -> Response:
    """Stop the job."""
    await change(request, lambda session: jobs.cancel(session, principal.project_id, job_id))
    live.changed(job_id)
    return RedirectResponse(f"/jobs/{job_id}", 303)


@router.post("/jobs/{job_id}/again")
async def again(request: Request, principal: WritesJobs, form: Sent, live: TheLive, job_id: JobId) -> Response:
    """Run the spec of an ended job once more."""

    def retry(session: Session) -> str:
        return jobs.retry(session, live.service.settings, principal.project_id, job_id).job.id

    return RedirectResponse(f"/jobs/{await change(request, retry)}", 303)


@router.post("/jobs/{job_id}/delete")
async def delete(request: Request, principal: WritesJobs, form: Sent, live: TheLive, job_id: JobId) -> Response:
    """Remove an ended job with its history and its artifacts."""
    await change(request, lambda session: jobs.delete(session, principal.project_id, job_id))
    live.changed(job_id)
    return RedirectResponse("/", 303)


def _page(view: View, *, job_id: str, tab: str, asked: Asked) -> Content:
    job = jobs.get(view.session, view.project_id, job_id)
    report, trouble = _report(view, job_id)
    shown = [name for name in NAMES if _has(name, view, report)]
    about = tabs.About(view, job, report)
    body = tabs.BUILDERS[tab](about, asked) if tab in shown else render("tabs/none.html", job=job, what=NAMES[tab].lower(), trouble=trouble)
    return view.page(
        "job.html",
        title_of(job),
        "jobs",
        job=job,
        item=row(job, view.names(Model, (job.model_id,))),
        dataset=view.names(Dataset, (job.dataset_id,)).get(job.dataset_id or "", ""),
        tabs=[(name, NAMES[name], f"/jobs/{job.id}" + ("" if name == "summary" else f"/{name}")) for name in NAMES if name in shown],
        tab=tab,
        body=body,
        trouble=trouble,
        ended=job.status in TERMINAL,
        has_report=report is not None,
    )


def _has(tab: str, view: View, report: Report | None) -> bool:
    """Whether there is anything to show on a tab."""
    if tab == "graph":
        return folder() is not None and view.may(Scope.ARTIFACTS_READ) and view.may(Scope.MODELS_READ)
    if tab == "artifacts":
        return view.may(Scope.ARTIFACTS_READ)
    if tab == "settings":
        return report is not None and len(report.as_result().settings) > 1
    if tab in ("steps", "layers"):
        return report is not None
    return True


def _report(view: View, job_id: str) -> tuple[Report | None, str]:
    """The report, or why it cannot be shown."""
    try:
        return reports.document(view.service, artifacts.report(view.session, view.project_id, job_id)), ""
    except NotFound:
        return None, ""
    except (ReportTooLarge, ReportUnreadable) as error:
        return None, error.message


def _live(view: View, *, job_id: str) -> Content:
    job = jobs.get(view.session, view.project_id, job_id)
    content = view.page("live.html", title_of(job), "jobs", job=job, item=row(job, {}))
    return replace(content, headers={"HX-Refresh": "true"}) if job.status in TERMINAL else content
