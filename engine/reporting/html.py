"""A report as one HTML page: own styles and SVG, no script, nothing from elsewhere."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from engine.contract.display import Bars, Curve, Note, Shown
from engine.contract.report import LayerChange, Report
from engine.reporting.details import cells, details
from engine.reporting.drawing import bars_svg, curve_svg
from engine.reporting.layers import layers_notes, sensitivity_text, share_text
from engine.reporting.settings import after_each_step, classes, latencies, quality_against_size, trade_offs
from engine.reporting.text import (
    MOST_WARNINGS,
    SETTING_COLUMNS,
    before_after,
    bytes_text,
    constraint_row,
    environment_rows,
    evaluated_text,
    layer_text,
    moment_text,
    number_text,
    ratio_text,
    reproduce_command,
    setting_rows,
    step_metrics,
)

MOST_BYTES = 380_000
"""The page of any job; what does not fit stands in the JSON document, and the page says so."""
ROOM_BYTES = 40_000
"""Of one table, unless it is given another bound."""
MAX_LAYERS, LAYERS_ROOM_BYTES = 200, 118_000
"""Layers in the table of the page; the JSON document has all of them."""
MAX_CELL_CHARACTERS = 200
"""Longer texts are cut, so that a stranger's names cannot blow the page up."""
_SPEC_CHARACTERS = 10_000
_MEASURED_CHARACTERS = 1000
_BAR_WIDTH, _LEAST_BAR = 160, 2.0
_STYLE = (
    Path(__file__).with_name("charts.css").read_text(encoding="utf-8")
    + """
*{box-sizing:border-box}body{font:15px/1.55 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:70rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}.lead{font-size:1.15rem;margin:.5rem 0}.dim{color:var(--dim)}a{color:var(--accent)}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--dim)}td{font-variant-numeric:tabular-nums}.time,th{white-space:nowrap}.scroll{overflow-x:auto}
.good{color:var(--good);font-weight:600}.bad{color:var(--bad);font-weight:600}
.cards{display:flex;flex-wrap:wrap;gap:.75rem;margin:1rem 0}.card{background:var(--card);border-radius:.5rem;padding:.75rem 1rem;min-width:9rem}
.card b{display:block;font-size:1.4rem}pre{background:var(--card);padding:.75rem 1rem;border-radius:.5rem;overflow-x:auto;font-size:13px}
td,li,h1,h2{overflow-wrap:break-word}.hash,code{font-family:ui-monospace,monospace;font-size:13px}code,summary{overflow-wrap:anywhere}.hash{white-space:nowrap}
.even{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,29rem),1fr));gap:0 2rem}.even>div{min-width:0}
@media print{body{max-width:none;margin:0}}
"""
)


class Html(str):
    """Markup that is safe already; everything else is escaped."""


def to_html(report: Report, links: Mapping[str, str] | None = None) -> str:
    """The report as a page of its own, below 400 kB for any job. Names that strangers chose are escaped everywhere.

    `links` are addresses of published files by name, where the page is shown by a service that has them.
    """
    title = report.name or "Compression report"
    before = [
        Html(f"<h1>{safe(title)}</h1>"),
        Html(f'<p class="dim">Job <code>{safe(report.job_id)}</code>{_dated(report)}</p>'),
        Html(f'<p class="lead">{escape(report.sentence[:2000])}</p>'),
        _cards(report),
        _rows("Constraints", ("", "limit", "measured", ""), [_marked(constraint_row(item)) for item in report.constraints]),
        section_of("Before and after", table_of(("", "before", "after", "change"), [_marked(row) for row in before_after(report)])),
        Html(f'<p class="dim">{escape(evaluated_text(report))}</p>'),
        _side_by_side((*trade_offs(report), *quality_against_size(report), *after_each_step(report), *latencies(report))),
        *(section_of(table.title, drawn(table)) for table in classes(report)),
        _rows("Settings", SETTING_COLUMNS, [_marked(row) for row in setting_rows(report)]),
        _warnings(report),
        _steps(report),
    ]
    after = [
        _layers(report),
        section_of("Environment", table_of(("", ""), environment_rows(report))),
        _reproduce(report, links or {}),
    ]
    room = MOST_BYTES - sum(len(part.encode()) for part in (*before, *after))
    between = _fitting((section_of(title, drawn(item)) for title, item in details(report.steps)), room)
    return page(title, (*before, *between, *after))


def page(title: str, parts: Iterable[Html]) -> str:
    """A page that needs nothing else."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>{safe(title)}</title>'
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head><body>{"".join(parts)}</body></html>\n'


def _fitting(sections: Iterable[Html], room: int) -> Iterator[Html]:
    """Those sections for which there is room, and a word about the others."""
    left = 0
    for section in sections:
        size = len(section.encode())
        if size > room:
            left += 1
        else:
            room -= size
            yield section
    if left:
        yield Html(f'<p class="dim">{left} more tables and diagrams are in report.json.</p>')


def _dated(report: Report) -> str:
    return "" if report.finished_at is None else f", {moment_text(report.finished_at)}"


def _marked(row: Sequence[str]) -> tuple[str, ...]:
    """A row with its verdicts in colour."""
    looks = {"faster": "good", "slower": "bad", "met": "good", "missed": "bad"}
    last = [looks.get(cell.partition(":")[0]) for cell in row]
    return tuple(
        cell if look is None or not place else Html(f'<span class="{look}">{escape(cell)}</span>')
        for place, (cell, look) in enumerate(zip(row, last, strict=True))
    )


def _cards(report: Report) -> Html:
    compared = report.comparison
    facts = [
        ("smaller file", ratio_text(compared.file_ratio)),
        ("fewer parameters", ratio_text(compared.params_ratio)),
        ("fewer operations", ratio_text(compared.macs_ratio)),
        (f"speed: {report.verdict}", ratio_text(compared.latencies[0].speedup)),
    ]
    return Html('<div class="cards">' + "".join(f'<div class="card"><b>{escape(v)}</b>{escape(k)}</div>' for k, v in facts) + "</div>")


def _side_by_side(curves: Iterable[Curve]) -> Html:
    parts = "".join(f"<div>{section_of(curve.title, drawn(curve))}</div>" for curve in curves)
    return Html(f'<div class="even">{parts}</div>' if parts else "")


def drawn(item: Shown) -> Html:
    """What a step shows; a diagram has its numbers below it."""
    if isinstance(item, Note):
        return Html(f"<p>{escape(item.text)}</p>")
    table = table_of(*cells(item))
    if not isinstance(item, Curve | Bars):
        return table
    drawing = curve_svg(item) if isinstance(item, Curve) else bars_svg(item)
    return Html(f'<div class="chart">{drawing}</div><details><summary>Numbers</summary>{table}</details>')


def _warnings(report: Report) -> Html:
    if not report.warnings:
        return Html("")
    items, left = _within((_warning(item.code, item.message) for item in report.warnings[:MOST_WARNINGS]), ROOM_BYTES)
    if left := left + max(0, len(report.warnings) - MOST_WARNINGS):
        items += f"<li>{left} further warnings are in report.json</li>"
    return section_of("Warnings", Html(f"<ul>{items}</ul>"))


def _warning(code: str, message: str) -> str:
    return f"<li><code>{safe(code)}</code> {escape(message[:600])}</li>"


def _steps(report: Report) -> Html:
    rows = [
        (
            str(step.index + 1),
            step.title,
            Html(escape(step_metrics(step.metrics)[:_MEASURED_CHARACTERS])),
            Html(f'<span class="time">{number_text(step.duration_seconds, "seconds")}</span>'),
        )
        for step in report.steps
    ]
    return section_of("Steps", table_of(("", "method", "measured after it", "time"), rows))


def _layers(report: Report) -> Html:
    layers = report.layers
    if not layers:
        return Html("")
    largest = max((layer.before.bytes for layer in layers), default=1) or 1
    rows = [
        (
            layer.name,
            layer.type,
            layer_text(layer.before),
            layer_text(layer.after),
            _remaining(layer),
            _bars(layer, largest),
            share_text(layer),
            sensitivity_text(layer.sensitivity),
        )
        for layer in layers[:MAX_LAYERS]
    ]
    header = ("layer", "type", "before", "after", "of its bytes", "bytes", "of the time", "sensitivity")
    notes = "".join(f"<p>{escape(text)}</p>" for text in layers_notes(report))
    table = table_of(header, rows, LAYERS_ROOM_BYTES, more=len(layers) - len(rows), what="layers")
    return section_of("Layers", Html(f"{table}{notes}"))


def _remaining(layer: LayerChange) -> str:
    """Which share of its bytes is left of a layer, however small it is beside the others."""
    after = 0 if layer.after is None else layer.after.bytes
    return number_text(after / layer.before.bytes if layer.before.bytes else None, "share")


def _bars(layer: LayerChange, largest: int) -> Html:
    sides = (("before", layer.before.bytes), ("after", 0 if layer.after is None else layer.after.bytes))
    bars = "".join(
        f'<rect y="{2 + 9 * place}" width="{max(_BAR_WIDTH * size / largest, _LEAST_BAR) if size else 0:.1f}" height="7" rx="1" class="{side}"/>'
        for place, (side, size) in enumerate(sides)
    )
    return Html(f'<svg class="sides" width="{_BAR_WIDTH + 2}" height="20" role="img" aria-label="bytes before and after">{bars}</svg>')


def _reproduce(report: Report, links: Mapping[str, str]) -> Html:
    inputs = [item for item in (report.inputs.model, report.inputs.dataset) if item is not None]
    files: list[tuple[str, ...]] = [(item.name, item.format, bytes_text(item.size_bytes), _hash(item.sha256)) for item in inputs]
    files += [(_linked(item.filename, links), item.format, bytes_text(item.size_bytes), _hash(item.sha256)) for item in report.artifacts]
    spec = json.dumps(report.spec, indent=1)
    cut = spec if len(spec) <= _SPEC_CHARACTERS else spec[:_SPEC_CHARACTERS] + "\n… the rest is in report.json"
    return section_of(
        "Files, and how to reproduce them",
        Html(
            table_of(("file", "format", "size", "sha256"), files)
            + f"<pre>{escape(reproduce_command(report)[:4000])}</pre>"
            + f"<details><summary>The whole spec ({safe(report.spec_hash)})</summary><pre>{escape(cut)}</pre></details>"
        ),
    )


def _hash(text: str) -> Html:
    return Html(f'<span class="hash">{safe(text)}</span>')


def _linked(name: str, links: Mapping[str, str]) -> str:
    return Html(f'<a href="{escape(links[name])}" download>{safe(name)}</a>') if name in links else name


def _rows(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Html:
    """A section with a table; nothing without rows."""
    return section_of(title, table_of(header, rows)) if rows else Html("")


def section_of(title: str, body: Html) -> Html:
    """A heading and what is below it."""
    return Html(f"<h2>{safe(title)}</h2>{body}")


def table_of(header: Sequence[str], rows: Iterable[Sequence[str]], room: int = ROOM_BYTES, *, more: int = 0, what: str = "rows") -> Html:
    """A table; rows for which there is no room are counted, with the `more` that were left out before."""
    head = "".join(f"<th>{safe(cell)}</th>" for cell in header)
    body, left = _within(("<tr>" + "".join(f"<td>{safe(cell)}</td>" for cell in row) + "</tr>" for row in rows), room)
    note = f'<p class="dim">{left + more} more {what} are in report.json.</p>' if left + more else ""
    return Html(f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}')


def _within(parts: Iterable[str], room: int) -> tuple[str, int]:
    """As many parts as there is room for, in order, and how many were left out."""
    kept: list[str] = []
    left = 0
    for part in parts:
        room -= len(part.encode())
        if room < 0:
            left += 1
        else:
            kept.append(part)
    return "".join(kept), left


def safe(text: str) -> str:
    """A cell: escaped unless it is markup of ours, and cut where it is long."""
    if isinstance(text, Html):
        return text
    return escape(text if len(text) <= MAX_CELL_CHARACTERS else text[:MAX_CELL_CHARACTERS] + "…")
