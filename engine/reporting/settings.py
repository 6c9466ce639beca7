"""What the settings of one network cost and give, as curves: whatever its settings are."""

from collections.abc import Iterator

from engine.contract.display import Column, Curve, Line
from engine.contract.figures import Figures
from engine.contract.metric import Key, first_of
from engine.contract.report import Report


def trade_offs(report: Report) -> Iterator[Curve]:
    """The first metric of the evaluated split against operations and against latency, one point a setting and one for the original.

    Nothing where the network has one setting, or where fewer than two settings have both figures.
    """
    found = [item.figures for item in report.as_result().settings]
    key = first_of(key for key in found[0].metrics if Key.parse(key).split == report.evaluation.split)
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


def _latency(report: Report) -> str:
    measured = report.baseline.latency_ms
    return f"latency, batch {measured.batch_size}"


def _point(figures: Figures, x: str, key: str) -> Iterator[tuple[float, float]]:
    """The place of one network in the diagram, if both of its figures are known."""
    cost = figures.macs_count if x == "macs_count" else figures.latency_ms.typical
    value = figures.metrics.get(key)
    if cost is not None and value is not None:
        yield float(cost), value
