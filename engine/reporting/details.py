"""What steps found out on their way, as tables: stages of pruning, curves of sensitivity, baselines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.contract.metric import Key, catalogue
from engine.reporting.text import metric_title, value_text

MAX_ROWS = 200
MAX_RATIOS = 12
"""Longer tables and curves are thinned out; the JSON document has all of them."""


@dataclass(frozen=True)
class Table:
    """A table with its title."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def detail_tables(steps: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    """The tables of all steps, in their order."""
    for step in steps:
        found, name = step["report"], f"step {step['index'] + 1}, {step['method']}"
        stages = [row for row in found.get("stages", ()) if len(row) > 1]
        if stages:
            yield _figures(f"Stages of {name}", "stage", stages)
        if "sensitivity" in found:
            yield _sensitivity(f"Quality with one layer pruned: {name}", found["sensitivity"])
        if "baselines" in found:
            yield _figures(f"Baselines of {name}", "baseline", found["baselines"]["rows"])


def _figures(title: str, first: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row for each mapping; the figures that any of them has are columns."""
    shown = rows if len(rows) <= MAX_ROWS else [rows[place * (len(rows) - 1) // (MAX_ROWS - 1)] for place in range(MAX_ROWS)]
    keys = list(dict.fromkeys(key for row in rows for key in row if key != first))
    return Table(title, (first, *map(_label, keys)), [(str(row[first]), *(_value(key, row.get(key)) for key in keys)) for row in shown])


def _label(key: str) -> str:
    return metric_title(key) if Key.parse(key).metric else key.replace("_", " ")


def _value(key: str, value: Any) -> str:
    if isinstance(value, int):
        return value_text("_count", value)
    return value_text(Key.parse(key).name or key, value)


def _sensitivity(title: str, found: Mapping[str, Any]) -> Table:
    name = next((name for name in catalogue() if name in found["unpruned"]), "")
    ratios = sorted({point["ratio"] for curve in found["curves"].values() for point in curve})
    shown = ratios[:: -(-len(ratios) // MAX_RATIOS)] if ratios else []
    rows = [
        (layer, *(value_text(name, {point["ratio"]: point.get(name) for point in curve}.get(ratio)) for ratio in shown))
        for layer, curve in list(found["curves"].items())[:MAX_ROWS]
    ]
    whole = value_text(name, found["unpruned"].get(name))
    return Table(f"{title} (whole: {whole})", ("layer", *(f"{100 * ratio:.3g} % pruned" for ratio in shown)), rows)
