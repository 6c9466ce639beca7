"""The tabs of a job."""

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode

from api.live.sse import sequence
from api.pages import so_far
from api.pages.cards import cards_of
from api.pages.charts import chart, training
from api.pages.graph import FOLDER, VIEW, published
from api.pages.jobs import summary_of
from api.pages.rendering import View, render
from api.pages.words import MOST_DOCUMENT_CHARACTERS, first_metric, yaml_text
from core import jobs
from core.access.keys import Scope
from core.database.tables import Artifact, Job
from core.errors import NotFound
from core.library import models
from engine.contract.display import Bar, Bars, Column, Curve, Table
from engine.contract.file_format import ending_of
from engine.contract.report import LayerChange, Report
from engine.reporting.details import details
from engine.reporting.layers import layers_notes, sensitivity_text, share_text
from engine.reporting.settings import after_each_step, classes, latencies, quality_against_size, trade_offs
from engine.reporting.text import (
    SETTING_COLUMNS,
    before_after,
    constraint_words,
    environment_rows,
    evaluated_text,
    key_text,
    layer_text,
    number_text,
    setting_rows,
    step_metrics,
)

MOST_LAYERS = 200
PAGE_EVENTS = 100
MOST_DRAWN_BYTES = 200 * 2**20
"""A larger network is not drawn: a browser would hold it in memory as a whole."""


@dataclass(frozen=True)
class About:
    """The job that a tab is of."""

    view: View
    job: Job
    report: Report | None

    def render(self, template: str, **context: Any) -> str:
        """The tab from its template."""
        return render(f"tabs/{template}.html", job=self.job, report=self.report, may=self.view.may, **context)


class Part(Protocol):
    """Which part of a list is wanted."""

    @property
    def lines(self) -> int:
        """Lines of the log."""
        ...

    @property
    def after(self) -> str | None:
        """The last event of the page before."""
        ...


def summary(about: About, asked: Part) -> str:
    """Before and after, targets, warnings."""
    job, report = about.job, about.report
    found = summary_of(job)
    return about.render(
        "summary",
        so_far=so_far.tables(about.view, job),
        cards=[] if found is None else cards_of(found),
        sentence="" if report is None else report.sentence,
        checks=[] if report is None else [(constraint_words(item), item) for item in report.constraints],
        rows=[] if report is None else before_after(report),
        evaluated="" if report is None else evaluated_text(report),
        charts=[] if report is None else [chart(curve.title, curve) for curve in _curves(report)],
        warnings=job.warnings[:20],
        more_warnings=max(0, len(job.warnings) - 20),
        environment=[] if report is None else environment_rows(report),
    )


def _curves(report: Report) -> Iterator[Curve | Table]:
    yield from quality_against_size(report)
    yield from after_each_step(report)
    yield from latencies(report)
    yield from classes(report)


def settings(about: About, asked: Part) -> str:
    """What the settings of one network cost and give."""
    assert about.report is not None
    charts = [chart(curve.title, curve) for curve in trade_offs(about.report)]
    return about.render("settings", charts=charts, header=SETTING_COLUMNS, rows=setting_rows(about.report))


def steps(about: About, asked: Part) -> str:
    """What each step measured and found."""
    report = about.report
    assert report is not None
    rows = [
        (str(step.index + 1), step.title, step_metrics(step.metrics), number_text(step.duration_seconds, "seconds"))
        for step in report.steps
    ]
    return about.render("steps", rows=rows, charts=[chart(title, item) for title, item in details(report.steps)])


def curves(about: About, asked: Part) -> str:
    """What trainings measured."""
    job = about.job
    found = jobs.series(about.view.session, job.id, max_points=200)
    titles = [step["method"].replace("_", " ") for step in job.steps]
    return about.render("training", charts=list(training(found, titles)))


def layers(about: About, asked: Part) -> str:
    """What became of each layer."""
    report = about.report
    assert report is not None
    bars = tuple(Bar(name=item.name, values=(float(item.before.bytes), _after_bytes(item))) for item in report.layers)
    sizes = Bars(title="Bytes of each layer", unit="bytes", series=("before", "after"), bars=bars)
    macs = _macs(about)
    rows = [
        (
            item.name,
            item.type,
            layer_text(item.before),
            layer_text(item.after),
            "–" if item.after is None else number_text(item.after.sparsity, "share"),
            number_text(macs.get(item.name), "count"),
            share_text(item),
            sensitivity_text(item.sensitivity),
        )
        for item in report.layers[:MOST_LAYERS]
    ]
    drawn = chart(sizes.title, sizes) if bars else None
    return about.render("layers", chart=drawn, rows=rows, left=len(report.layers) - len(rows), notes=layers_notes(report))


def _after_bytes(item: LayerChange) -> float:
    return 0.0 if item.after is None else float(item.after.bytes)


def _macs(about: About) -> dict[str, float]:
    """Operations of the original's layers, as its inspection counted them."""
    if about.job.model_id is None or not about.view.may(Scope.MODELS_READ):
        return {}
    try:
        inspection = models.get(about.view.session, about.view.project_id, about.job.model_id).inspection or {}
    except NotFound:  # it was deleted
        return {}
    return {layer["name"]: layer["macs_count"] for layer in inspection.get("layers", ()) if layer.get("macs_count") is not None}


@dataclass(frozen=True)
class Drawn:
    """A network that the viewer draws."""

    title: str
    source: str
    """Address of the viewer's page; empty where the file is too large to be loaded without being asked for."""
    size_bytes: int


def graph(about: About, asked: Part) -> str:
    """The networks before and after, side by side."""
    job, view = about.job, about.view
    about.view.principal.require(Scope.ARTIFACTS_READ)
    drawn = []
    try:
        model = models.get(view.session, view.project_id, job.model_id or "")
        name = model.name + ending_of(model.format)
        drawn.append(_drawn("Before", f"/jobs/{job.id}/network/before", name, model.size_bytes))
    except NotFound:  # it was deleted
        pass
    row = published(view.session, view.project_id, job.id)
    if row is not None:
        drawn.append(_drawn(f"After: {row.filename}", f"/jobs/{job.id}/network/after", row.filename, row.size_bytes))
    return about.render("graph", drawn=drawn)


def _drawn(title: str, path: str, name: str, size_bytes: int) -> Drawn:
    source = f"{FOLDER}{VIEW}?{urlencode({'url': path, 'identifier': name[-100:]})}"
    return Drawn(title, source if size_bytes <= MOST_DRAWN_BYTES else "", size_bytes)


@dataclass(frozen=True)
class File:
    """A published file, with what was measured on it, and how to fetch it."""

    row: Artifact
    quality: str
    curl: str
    python: str


def files(about: About, asked: Part) -> str:
    """Everything that was published."""
    about.view.principal.require(Scope.ARTIFACTS_READ)
    rows = jobs.artifacts(about.view.session, about.view.project_id, about.job.id)
    return about.render("artifacts", files=[_file(row) for row in rows])


def _file(row: Artifact) -> File:
    path = f"/v1/artifacts/{row.id}/content"
    numbers = {key: value for key, value in row.metrics.items() if isinstance(value, int | float)}
    key = first_metric({key: value for key, value in numbers.items() if "." in key}) if numbers else None
    quality = "" if key is None else f"{key_text(key, numbers[key])} {Column.of(key).title}"
    name = shlex.quote(row.filename)
    curl = f'curl -fo {name} -H "Authorization: Bearer $MODELPRESS_API_KEY" "$MODELPRESS_URL{path}"'
    python = (
        "import os, urllib.request\n"
        f"request = urllib.request.Request(os.environ['MODELPRESS_URL'] + {path!r},\n"
        "    headers={'Authorization': 'Bearer ' + os.environ['MODELPRESS_API_KEY']})\n"
        f"with urllib.request.urlopen(request) as answer, open({row.filename!r}, 'wb') as file:\n"
        "    file.write(answer.read())"
    )
    return File(row, quality, curl, python)


def logs(about: About, asked: Part) -> str:
    """The end of the log."""
    text = b"".join(jobs.log(about.view.session, about.job.id))
    lines = text.decode(errors="replace").split("\n")[:-1]
    shown = [jobs.log_line(line[:2000]) for line in lines[-asked.lines :]]
    return about.render("logs", lines=shown, left=len(lines) - len(shown), wanted=asked.lines)


def spec(about: About, asked: Part) -> str:
    """What was asked for."""
    job = about.job
    return about.render("spec", sent=yaml_text(job.spec), whole=yaml_text(job.normalized_spec), curl=submit_command(job.spec))


def submit_command(document: Any) -> str:
    """The command that submits a spec."""
    body = shlex.quote(json.dumps(document, ensure_ascii=False)[:MOST_DOCUMENT_CHARACTERS])
    return (
        'curl -f "$MODELPRESS_URL/v1/jobs" -H "Authorization: Bearer $MODELPRESS_API_KEY" \\\n'
        f"  -H 'Content-Type: application/json' -d {body}"
    )


def history(about: About, asked: Part) -> str:
    """What happened to the job."""
    found = jobs.events(about.view.session, about.job.id, after=sequence(asked.after), limit=PAGE_EVENTS + 1)
    page = [jobs.event_body(event) for event in found[:PAGE_EVENTS]]
    rows: Sequence[tuple[Any, str]] = [(event, _told(event.data)) for event in found[:PAGE_EVENTS]]
    return about.render("events", rows=rows, more=page[-1]["id"] if len(found) > PAGE_EVENTS else None, first=asked.after is None)


def _told(data: dict[str, Any]) -> str:
    text = json.dumps(data, ensure_ascii=False)
    return "" if text == "{}" else text if len(text) <= 500 else text[:500] + "…"


BUILDERS: dict[str, Callable[[About, Part], str]] = {
    "summary": summary,
    "settings": settings,
    "steps": steps,
    "training": curves,
    "layers": layers,
    "graph": graph,
    "artifacts": files,
    "logs": logs,
    "spec": spec,
    "events": history,
}
