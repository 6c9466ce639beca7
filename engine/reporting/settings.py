"""What the states and settings of one network cost and give, as curves: whatever its settings are."""

from collections.abc import Iterator

from engine.contract.display import Column, Curve, Line, Table
from engine.contract.figures import QUANTILES, Figures
from engine.contract.metric import Key, first_of
from engine.contract.report import Report

_MOST_POINTS = 24
_MOST_CLASSES = 20


def first_metric(report: Report) -> str | None:
    """The key of the metric that the diagrams are about: the first of the evaluated split."""
    return first_of(key for key in report.result.metrics if Key.parse(key).split == report.evaluation.split)


def trade_offs(report: Report) -> Iterator[Curve]:
    """The first metric of the evaluated split against operations and against latency, one point a setting and one for the original.

    Nothing where the network has one setting, or where fewer than two settings have both figures.
    """
    found = [item.figures for item in report.as_result().settings]
    key = first_metric(report)
    if len(found) < 2 or key is None:
        return
    for x in ("macs_count", "latency_ms"):
        points = tuple(sorted(point for figures in found for point in _point(figures, x, key)))
        if len(points) > 1:
            axis = Column(
                title="operations of one example" if x == "macs_count" else _latency(report), unit="count" if x == "macs_count" else "ms"
            )
            lines = (Line(name="settings", points=points), Line(name="original", points=tuple(_point(report.baseline, x, key))))
            title = "Quality against operations" if x == "macs_count" else "Quality against latency"
            yield Curve(title=title, x=axis, y=Column.of(key), lines=tuple(line for line in lines if line.points))


def quality_against_size(report: Report) -> Iterator[Curve]:
    """The first metric against the file: the original, and every network that was published, with each of its settings."""
    key = first_metric(report)
    if key is None:
        return
    points = [("original", report.baseline.file_bytes, report.baseline.metrics.get(key))]
    published = report.as_result().settings
    for item in published:
        points.append((item.setting.name or "result", item.figures.file_bytes, item.figures.metrics.get(key)))
    for file in report.artifacts:
        value = file.metrics.get(key)
        if file.step_index is not None and isinstance(value, int | float):
            points.append((f"after step {file.step_index + 1}", file.size_bytes, float(value)))
    lines = tuple(Line(name=name, points=((float(size), value),)) for name, size, value in points if value is not None)
    if len(lines) > 1:
        yield Curve(title="Quality against size", x=Column(title="file", unit="bytes"), y=Column.of(key), lines=lines[:_MOST_POINTS])


def after_each_step(report: Report) -> Iterator[Curve]:
    """The first metric of the original, and after each step that measured it."""
    key = first_metric(report)
    if key is None:
        return
    measured = [(0, report.baseline.metrics.get(key)), *((step.index + 1, step.metrics.get(key)) for step in report.steps)]
    points = tuple((float(number), value) for number, value in measured if value is not None)
    if len(points) > 2:
        lines = (Line(name="quality", points=points),)
        yield Curve(title="Quality after each step", x=Column(title="steps done"), y=Column.of(key), lines=lines)


def classes(report: Report) -> Iterator[Table]:
    """Which classes the result recognizes worse, or better, than the original: a table for each output that tells classes apart."""
    names = _labels(report)
    for output in dict.fromkeys(item.output for item in report.classes):
        found = [item for item in report.classes if item.output == output and item.right_before_count != item.right_after_count]
        # Those that lost most stand first, those that won most last.
        kept = found if len(found) <= _MOST_CLASSES else [*found[: _MOST_CLASSES - 5], *found[-5:]]
        if kept:
            columns = ("class", "examples", "right before", "right after", "change", "lost ones mostly taken for")
            units = ("", "count", "share", "share", "points", "")
            rows = tuple(
                (
                    _named(item.class_number, names),
                    item.examples_count,
                    item.right_before_count / item.examples_count,
                    item.right_after_count / item.examples_count,
                    f"{100 * (item.right_after_count - item.right_before_count) / item.examples_count:+.2f} points",
                    None if item.mostly_taken_for is None else _named(item.mostly_taken_for, names),
                )
                for item in kept
            )
            title = "Classes that changed" if len({item.output for item in report.classes}) == 1 else f"Classes that changed: {output}"
            yield Table(title=title, columns=tuple(Column(title=t, unit=u) for t, u in zip(columns, units, strict=True)), rows=rows)


def _labels(report: Report) -> list[str]:
    """What the classes are called, where model or dataset say so."""
    for file in (report.inputs.model, report.inputs.dataset):
        stated = [] if file is None else file.metadata.get("labels")
        if isinstance(stated, list) and stated:
            return [str(name) for name in stated]
    return []


def _named(number: int, names: list[str]) -> str:
    return names[number][:60] if number < len(names) else str(number)


def latencies(report: Report) -> Iterator[Curve]:
    """How the times of single runs are distributed, before and after, at the first batch size; nothing in reports without quantiles."""
    sides = (("before", report.baseline), ("after", report.result))
    lines = tuple(
        Line(name=name, points=tuple(zip(found.latency_ms.quantiles, QUANTILES, strict=True)))
        for name, found in sides
        if found.latency_ms.quantiles is not None and len(found.latency_ms.quantiles) == len(QUANTILES)
    )
    if len(lines) == len(sides):
        x, y = Column(title=_latency(report), unit="ms"), Column(title="runs that took no longer", unit="share")
        yield Curve(title="Latency of single runs", x=x, y=y, lines=lines)


def _latency(report: Report) -> str:
    measured = report.baseline.latency_ms
    return f"latency, batch {measured.batch_size}"


def _point(figures: Figures, x: str, key: str) -> Iterator[tuple[float, float]]:
    """The place of one network in the diagram, if both of its figures are known."""
    cost = figures.macs_count if x == "macs_count" else figures.latency_ms.typical
    value = figures.metrics.get(key)
    if cost is not None and value is not None:
        yield float(cost), value
