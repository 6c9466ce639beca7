"""What the steps of a job show, with titles that say which step it was, bounded for a page."""

from collections.abc import Iterator, Sequence

from engine.contract.display import Bars, Curve, Note, Shown, Table
from engine.contract.report import StepReport
from engine.reporting.drawing import thinned
from engine.reporting.text import number_text, place_text

MAX_ROWS = 200
MAX_COLUMNS = 12
"""Longer tables and curves are thinned out; the JSON document has all of them."""
Cells = tuple[tuple[str, ...], list[tuple[str, ...]]]


def details(steps: Sequence[StepReport]) -> Iterator[tuple[str, Shown]]:
    """Everything that steps show, each with its title."""
    for step in steps:
        for item in step.shown:
            where = f"step {step.index + 1}, {step.method}"
            yield (f"{item.title}: {where}" if item.title else where), item


def cells(item: Shown) -> Cells:
    """Header and rows of an item as text; a curve has one row a line and one column for each place on its axis."""
    match item:
        case Table():
            header = tuple(column.title for column in item.columns)
            units = [column.unit for column in item.columns]
            return header, [tuple(map(number_text, row, units)) for row in thinned(item.rows, MAX_ROWS)]
        case Curve():
            places = thinned(sorted({x for line in item.lines for x, _ in line.points}), MAX_COLUMNS)
            header = ("", *(f"{place_text(place, item.x.unit)} {item.x.title}" for place in places))
            rows = [
                (line.name, *(number_text(dict(line.points).get(place), item.y.unit) for place in places))
                for line in thinned(item.lines, MAX_ROWS)
            ]
            return header, rows
        case Bars():
            header = ("", *(name or item.title for name in item.series))
            return header, [(bar.name, *(number_text(value, item.unit) for value in bar.values)) for bar in thinned(item.bars, MAX_ROWS)]
        case Note():
            return (), [(item.text,)]
