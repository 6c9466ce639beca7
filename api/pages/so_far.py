"""How far a job came that did not end well, as tables of its page."""

from api.pages.rendering import View
from core import jobs
from core.database.tables import Job
from core.jobs import Status
from core.library import artifacts
from engine.reporting.partial import STAGE_COLUMNS, STEP_COLUMNS, baseline_rows, stage_rows, step_rows

Rows = list[tuple[str, ...]]


def tables(view: View, job: Job) -> list[tuple[str, tuple[str, ...], Rows]]:
    """Title, columns and rows of each table; none for a job that goes on, or has a report."""
    if job.status not in (Status.FAILED, Status.CANCELLED) or artifacts.report_of(view.session, view.project_id, job.id) is not None:
        return []
    found = jobs.partial_report(view.session, view.project_id, job.id)
    drawn = [
        ("The uploaded model", ("metric", "value"), baseline_rows(found)),
        ("Steps", STEP_COLUMNS, step_rows(found)),
        ("Phases", STAGE_COLUMNS, stage_rows(found)),
    ]
    return [item for item in drawn if item[2]]
