"""Diagrams of the report as pages show them: each with its numbers, for those who read rather than look."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from engine.contract.display import Bars, Column, Curve, Line, Note, Shown
from engine.contract.metric import Key
from engine.reporting.details import cells
from engine.reporting.drawing import bars_svg, curve_svg


@dataclass(frozen=True)
class Chart:
    """Something to look at, and the same as a table; `drawing` is empty for what is a table or a sentence anyway."""

    title: str
    drawing: Markup
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: str = ""


def chart(title: str, item: Shown) -> Chart:
    """What a step or a job shows."""
    if isinstance(item, Note):
        return Chart(title, Markup(), (), (), item.text)
    header, rows = cells(item)
    drawing = curve_svg(item) if isinstance(item, Curve) else bars_svg(item) if isinstance(item, Bars) else ""
    return Chart(title, Markup(drawing), header, rows)  # noqa: S704 - the drawing escapes what strangers chose


def training(series: Iterable[dict[str, Any]], titles: Sequence[str]) -> Iterator[Chart]:
    """What trainings measured: one diagram for each step and figure, a line for each split. `titles` are those of the job's steps."""
    groups: dict[tuple[int | None, str], list[dict[str, Any]]] = {}
    for item in series:
        groups.setdefault((item["step_index"], _figure(item["name"])), []).append(item)
    for (step, figure), found in groups.items():
        lines = tuple(
            Line(name=_line(item), points=tuple((float(x), float(y)) for x, y in item["points"] if y is not None)) for item in found
        )
        title = figure.replace("_", " ")
        metric = Key.parse(found[0]["name"]).metric
        y = Column(
            title=metric.title if metric is not None else title, unit=found[0]["unit"] or (metric.unit if metric is not None else "")
        )
        where = f": step {step + 1}, {titles[step]}" if step is not None and step < len(titles) else ""
        curve = Curve(title=f"{y.title}{where}", x=Column(title="epoch"), y=y, lines=lines)
        if any(len(line.points) > 1 for line in lines):
            yield chart(curve.title, curve)


def _figure(name: str) -> str:
    return name.partition(".")[2] or name


def _line(item: dict[str, Any]) -> str:
    split = item["name"].partition(".")[0]
    return f"{split} (attempt {item['attempt_fence']})" if item["attempt_fence"] > 1 else split
