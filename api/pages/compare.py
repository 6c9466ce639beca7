"""Jobs side by side: what they came to, and in which settings they differ."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from api.deps import ReadsJobs
from api.http.routing import ClosedRoute
from api.pages.charts import Chart, chart
from api.pages.jobs import summary_of, title_of
from api.pages.rendering import Content, View, show
from api.pages.words import first_metric, inline
from core import jobs
from core.database.tables import Job
from core.errors import NotFound
from engine.contract.display import Column, Curve, Line
from engine.contract.figures import Figures, Summary
from engine.contract.metric import Key
from engine.reporting.text import FIGURES, key_text, number_text, ratio_text

router = APIRouter(route_class=ClosedRoute, include_in_schema=False)
MOST_JOBS = 8
MOST_ROWS = 300
_MOST_CHARACTERS = 120
Cell = tuple[str, str]
"""A text and its look."""


@dataclass(frozen=True)
class Side:
    """One of the jobs."""

    job: Job
    title: str
    summary: Summary | None


@router.get("/compare")
async def compare_page(
    request: Request,
    principal: ReadsJobs,
    job: Annotated[list[str], Query(max_length=50)] = [],  # noqa: B006 - FastAPI copies it
) -> Response:
    """Two or more jobs beside each other."""
    return await show(request, principal, partial(_page, ids=list(dict.fromkeys(job))))


def _page(view: View, *, ids: Sequence[str]) -> Content:
    sides = [_side(view, job_id) for job_id in ids[:MOST_JOBS]]
    return view.page(
        "compare.html",
        "Compare",
        "jobs",
        sides=sides,
        more=max(0, len(ids) - MOST_JOBS),
        figures=list(_figures(sides)),
        differing=_differing([side.job.normalized_spec for side in sides]),
        plot=_plot(sides),
    )


def _side(view: View, job_id: str) -> Side:
    if not job_id.isascii() or len(job_id) > 80:
        raise NotFound("there is no such job in this project")
    job = jobs.get(view.session, view.project_id, job_id)
    return Side(job, title_of(job), summary_of(job))


def _figures(sides: Sequence[Side]) -> Iterator[tuple[str, list[Cell]]]:
    """Rows of figures, the best of each marked."""
    found = [None if side.summary is None else side.summary.result for side in sides]
    keys = list(dict.fromkeys(key for item in found if item is not None for key in item.metrics))
    for key in keys:
        values = [None if item is None else item.metrics.get(key) for item in found]
        metric = Key.parse(key).metric
        yield (
            Column.of(key).title,
            _cells(values, [key_text(key, value) for value in values], None if metric is None else metric.goal == "max"),
        )
    for name, label in FIGURES:
        values = [None if item is None else getattr(item, name) for item in found]
        yield label, _cells(values, [key_text(name, value) for value in values], False)
    latencies = [None if item is None else item.latency_ms.typical for item in found]
    yield "Latency", _cells(latencies, [number_text(value, "ms") for value in latencies], False)
    speeds = [None if side.summary is None else side.summary.comparison.latencies[0].speedup for side in sides]
    yield "Speed against the original", _cells(speeds, [ratio_text(value) for value in speeds], True)
    smaller = [None if side.summary is None else side.summary.comparison.file_ratio for side in sides]
    yield "Smaller than the original", _cells(smaller, [ratio_text(value) for value in smaller], True)


def _cells(values: Sequence[float | None], texts: Sequence[str], more_is_better: bool | None) -> list[Cell]:
    known = [value for value in values if value is not None]
    best = None if more_is_better is None or len(set(known)) < 2 else (max if more_is_better else min)(known)
    return [(text, "good" if best is not None and value == best else "") for value, text in zip(values, texts, strict=True)]


def _differing(specs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """The parameters in which the jobs differ, by place."""
    flat = [dict(_leaves(spec, "")) for spec in specs]
    places = list(dict.fromkeys(place for item in flat for place in item))
    rows = []
    for place in places:
        values = [item.get(place, "–") for item in flat]
        if len(set(values)) > 1:
            rows.append((place, values))
    return rows[:MOST_ROWS]


def _leaves(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{place}.{name}" if place else str(name))
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for index, inner in enumerate(value):
            label = f"{index + 1} {inner['method']}" if isinstance(inner, Mapping) and "method" in inner else str(index + 1)
            yield from _leaves(inner, f"{place} {label}")
    else:
        text = inline(value)
        yield place, text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + "…"


def _plot(sides: Sequence[Side]) -> Chart | None:
    """Quality against size, a point a job."""
    known = [side for side in sides if side.summary is not None]
    key = first_metric(known[0].summary.result.metrics) if known and known[0].summary is not None else None
    if key is None:
        return None
    lines = [_point(side.title, side.summary.result, key) for side in known if side.summary is not None]
    drawn = tuple(line for line in lines if line is not None)
    if len(drawn) < 2:
        return None
    curve = Curve(title="Quality against size", x=Column(title="file", unit="bytes"), y=Column.of(key), lines=drawn)
    return chart(curve.title, curve)


def _point(name: str, figures: Figures, key: str) -> Line | None:
    value = figures.metrics.get(key)
    return None if value is None else Line(name=name, points=((float(figures.file_bytes), value),))
