"""What a method shows in the readable reports: tables, curves, bars and notes. Whoever draws them knows no method."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from engine.contract.figures import Record
from engine.contract.metric import Key

Cell = str | int | float | None
Unit = str
"""How numbers are written: `share` as per cent, `bytes`, `count`, `ms`, `seconds`, `ratio` (times), `dB`, `nats`; empty for plain ones.
Units that a reader does not know are written behind the number."""
MOST_SHOWN = 50
"""What one step may show."""
_Text = Annotated[str, Field(max_length=1000)]


class Column(Record):
    """A column of a table, or an axis of a diagram."""

    title: _Text
    unit: Unit = Field("", max_length=32)

    @classmethod
    def of(cls, key: str) -> Self:
        """The column of a figure by its key: a metric such as `test.top1`, or a name that ends in `_count`, `_bytes` …"""
        found = Key.parse(key)
        if found.metric is not None:
            title = f"{found.metric.title} (nats)" if found.metric.unit == "nats" else found.metric.title
            return cls(title=", ".join(part for part in (title, found.output, found.split) if part), unit=found.metric.unit)
        unit = next((unit for unit in ("bytes", "count", "ms", "seconds", "ratio") if key.endswith(f"_{unit}")), "")
        return cls(title=key.replace("_", " "), unit="share" if key.endswith("sparsity") else unit)


class Table(Record):
    """Rows of cells."""

    type: Literal["table"] = "table"
    title: _Text
    columns: tuple[Column, ...] = Field(min_length=1, max_length=64)
    rows: tuple[tuple[Cell, ...], ...] = Field(max_length=10_000)

    @model_validator(mode="after")
    def _rectangular(self) -> Self:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError("every row has one cell for each column")
        return self

    @classmethod
    def of(cls, title: str, first: str, rows: Sequence[Mapping[str, Cell]]) -> Self:
        """One row for each mapping. `first` is the key of the first column; every other key that a mapping has is a column, too."""
        keys = list(dict.fromkeys(key for row in rows for key in row if key != first))
        cells = tuple((row.get(first), *(row.get(key) for key in keys)) for row in rows)
        return cls(title=title, columns=(Column(title=first.replace("_", " ")), *map(Column.of, keys)), rows=cells)


class Line(Record):
    """One line of a diagram."""

    name: _Text
    points: tuple[tuple[float, float], ...] = Field(max_length=10_000)


class Curve(Record):
    """Lines over a common axis."""

    type: Literal["curve"] = "curve"
    title: _Text
    x: Column
    y: Column
    lines: tuple[Line, ...] = Field(max_length=10_000)


class Bar(Record):
    """One bar for each series."""

    name: _Text
    values: tuple[float | None, ...]


class Bars(Record):
    """Values side by side: one bar a series, `before` and `after` for instance."""

    type: Literal["bars"] = "bars"
    title: _Text
    unit: Unit = Field("", max_length=32)
    series: tuple[_Text, ...] = ("",)
    bars: tuple[Bar, ...] = Field(max_length=10_000)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if any(len(bar.values) != len(self.series) for bar in self.bars):
            raise ValueError("every bar has one value for each series")
        return self


class Note(Record):
    """A sentence."""

    type: Literal["note"] = "note"
    title: _Text = ""
    text: str = Field(max_length=10_000)


Shown = Annotated[Table | Curve | Bars | Note, Field(discriminator="type")]
SHOWN: TypeAdapter[Shown] = TypeAdapter(Shown)
