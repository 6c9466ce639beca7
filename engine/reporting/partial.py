"""The report of a job that did not end well, as a page and as Markdown."""

from html import escape

from engine.contract.display import Column, Curve, Line
from engine.contract.partial import PartialReport, SeriesSoFar
from engine.reporting.html import Html, drawn, page, safe, section_of, table_of
from engine.reporting.markdown import lines_of_table, plain
from engine.reporting.text import key_text, number_text

_MOST_CURVES = 12
Row = tuple[str, ...]
STAGE_COLUMNS = ("attempt", "phase", "step", "time")
STEP_COLUMNS = ("", "method", "how far", "measured after it")


def partial_html(report: PartialReport) -> str:
    """The report as a page of its own."""
    title = report.name or "Report of a job that did not end well"
    error = report.error
    parts = [
        Html(f"<h1>{safe(title)}</h1>"),
        Html(f'<p class="dim">Job <code>{safe(report.job_id)}</code>, {report.attempts} attempts</p>'),
        Html(f'<p class="lead">{escape(report.sentence[:2000])}</p>'),
    ]
    if error is not None:
        hint = f"<p>{escape(error.hint)}</p>" if error.hint else ""
        parts.append(section_of("Why", Html(f'<p><code class="bad">{safe(error.code)}</code> {escape(error.message[:2000])}</p>{hint}')))
    if report.baseline:
        parts.append(section_of("The uploaded model", table_of(("metric", "value"), baseline_rows(report))))
    parts.append(section_of("Steps", table_of(STEP_COLUMNS, step_rows(report))))
    parts.append(section_of("Phases", table_of(STAGE_COLUMNS, stage_rows(report))))
    parts += [section_of(curve.title, drawn(curve)) for curve in curves(report)]
    if report.warnings:
        items = "".join(f"<li><code>{safe(item.code)}</code> {escape(item.message[:600])}</li>" for item in report.warnings[:50])
        parts.append(section_of("Warnings", Html(f"<ul>{items}</ul>")))
    return page(title, parts)


def partial_markdown(report: PartialReport) -> str:
    """The report as Markdown."""
    parts = [f"# {plain(report.name or report.job_id)}", plain(report.sentence)]
    if report.error is not None:
        parts.append(f"`{report.error.code}` {plain(report.error.hint or '')}".strip())
    if report.baseline:
        parts += ["## The uploaded model", lines_of_table(("metric", "value"), baseline_rows(report))]
    parts += ["## Steps", lines_of_table(STEP_COLUMNS, step_rows(report)), "## Phases", lines_of_table(STAGE_COLUMNS, stage_rows(report))]
    return "\n\n".join(parts) + "\n"


def baseline_rows(report: PartialReport) -> list[Row]:
    """What was measured of the uploaded model."""
    return [(name.replace("_", " "), key_text(name, value)) for name, value in report.baseline.items()]


def step_rows(report: PartialReport) -> list[Row]:
    """How far each step came."""
    words = {"finished": "finished", "begun": "begun", "not_begun": "not begun"}
    return [
        (
            str(step.index + 1),
            step.method,
            words[step.status],
            ", ".join(f"{name} {key_text(name, value)}" for name, value in list(step.metrics.items())[:6]),
        )
        for step in report.steps
    ]


def stage_rows(report: PartialReport) -> list[Row]:
    """Which phases there were, and how long."""
    return [
        (
            str(stage.attempt_fence),
            stage.phase,
            "" if stage.step_index is None else str(stage.step_index + 1),
            number_text(stage.duration_seconds, "seconds"),
        )
        for stage in report.stages
    ]


def curves(report: PartialReport) -> list[Curve]:
    """What was measured while the job ran, as far as it makes a line."""
    return [_curve(item) for item in report.series if sum(value is not None for _, value in item.points) > 1][:_MOST_CURVES]


def _curve(item: SeriesSoFar) -> Curve:
    points = tuple((float(step), value) for step, value in item.points if value is not None)
    where = "" if item.step_index is None else f" of step {item.step_index + 1}"
    title = f"{item.name}{where}, attempt {item.attempt_fence}"
    return Curve(title=title, x=Column(title="step"), y=Column(title=item.name[:80]), lines=(Line(name=item.name[:80], points=points),))
