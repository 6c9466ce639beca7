"""A report as one HTML page: own styles and SVG, no script, nothing from elsewhere."""

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from engine.contract.display import Bars, Curve, Note, Shown
from engine.contract.report import LayerChange, Report
from engine.reporting.details import cells, details
from engine.reporting.drawing import bars_svg, curve_svg
from engine.reporting.settings import trade_offs
from engine.reporting.text import (
    MOST_WARNINGS,
    SETTING_COLUMNS,
    before_after,
    bytes_text,
    constraint_row,
    environment_rows,
    evaluated_text,
    layer_text,
    ratio_text,
    reproduce_command,
    setting_rows,
    step_metrics,
)

MAX_LAYERS = 200
"""Layers in the table of the page; the JSON document has all of them."""
MAX_CELL_CHARACTERS = 200
"""Longer texts are cut, so that a stranger's names cannot blow the page up."""
_STYLE = (
    Path(__file__).with_name("charts.css").read_text(encoding="utf-8")
    + """
*{box-sizing:border-box}body{font:15px/1.55 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:70rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}.lead{font-size:1.15rem}.dim{color:var(--dim)}a{color:var(--accent)}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--dim)}td{font-variant-numeric:tabular-nums}.time,th{white-space:nowrap}.scroll{overflow-x:auto}
.good{color:var(--good);font-weight:600}.bad{color:var(--bad);font-weight:600}
.cards{display:flex;flex-wrap:wrap;gap:.75rem;margin:1rem 0}.card{background:var(--card);border-radius:.5rem;padding:.75rem 1rem;min-width:9rem}
.card b{display:block;font-size:1.4rem}pre{background:var(--card);padding:.75rem 1rem;border-radius:.5rem;overflow-x:auto;font-size:13px}
td,li{overflow-wrap:break-word}td:first-child{min-width:7rem}code{overflow-wrap:anywhere}@media print{body{max-width:none;margin:0}}
"""
)


class Html(str):
    """Markup that is safe already; everything else is escaped."""


def to_html(report: Report) -> str:
    """The report as a page of its own (below 200 kB for one step that shows little). Names that strangers chose are escaped everywhere."""
    title = report.name or "Compression report"
    sections = [
        Html(f"<h1>{escape(title)}</h1>"),
        Html(f'<p class="lead">{escape(report.sentence)}</p>'),
        _cards(report),
        _section("Before and after", _table(("", "before", "after", "change"), [_marked(row) for row in before_after(report)])),
        Html(f'<p class="dim">{escape(evaluated_text(report))}</p>'),
        _rows("Settings", SETTING_COLUMNS, [_marked(row) for row in setting_rows(report)]),
        *(_section(curve.title, _drawn(curve)) for curve in trade_offs(report)),
        _rows("Constraints", ("", "limit", "measured", ""), [_marked(constraint_row(item)) for item in report.constraints]),
        _warnings(report),
        _steps(report),
        *(_section(title, _drawn(item)) for title, item in details(report.steps)),
        _layers(report.layers),
        _section("Environment", _table(("", ""), environment_rows(report))),
        _reproduce(report),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>{escape(title)}</title>'
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head><body>{"".join(sections)}</body></html>\n'


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


def _drawn(item: Shown) -> Html:
    """What a step shows; a diagram has its numbers below it."""
    if isinstance(item, Note):
        return Html(f"<p>{escape(item.text)}</p>")
    table = _table(*cells(item))
    if not isinstance(item, Curve | Bars):
        return table
    drawing = curve_svg(item) if isinstance(item, Curve) else bars_svg(item)
    return Html(f"{drawing}<details><summary>Numbers</summary>{table}</details>")


def _warnings(report: Report) -> Html:
    if not report.warnings:
        return Html("")
    items = "".join(f"<li><code>{escape(item.code)}</code> {escape(item.message)}</li>" for item in report.warnings[:MOST_WARNINGS])
    if len(report.warnings) > MOST_WARNINGS:
        items += f"<li>{len(report.warnings) - MOST_WARNINGS} further warnings are in report.json</li>"
    return _section("Warnings", Html(f"<ul>{items}</ul>"))


def _steps(report: Report) -> Html:
    rows = [
        (str(step.index + 1), step.title, step_metrics(step.metrics), Html(f'<span class="time">{step.duration_seconds:.1f} s</span>'))
        for step in report.steps
    ]
    return _section("Steps", _table(("", "method", "measured after it", "time"), rows))


def _layers(layers: Sequence[LayerChange]) -> Html:
    if not layers:
        return Html("")
    largest = max((layer.before.bytes for layer in layers), default=1) or 1
    rows = [
        (layer.name, layer.type, layer_text(layer.before), layer_text(layer.after), _bars(layer, largest)) for layer in layers[:MAX_LAYERS]
    ]
    left = len(layers) - len(rows)
    note = Html(f'<p class="dim">{left} more layers are in report.json.</p>') if left else Html("")
    return Html(_section("Layers", _table(("layer", "type", "before", "after", "bytes"), rows)) + note)


def _bars(layer: LayerChange, largest: int) -> Html:
    sides = (("before", layer.before.bytes), ("after", 0 if layer.after is None else layer.after.bytes))
    bars = "".join(
        f'<rect y="{2 + 9 * place}" width="{max(160 * size / largest, 0.5):.1f}" height="7" rx="1" class="{side}"/>'
        for place, (side, size) in enumerate(sides)
    )
    return Html(f'<svg class="sides" width="162" height="20" role="img" aria-label="bytes before and after">{bars}</svg>')


def _reproduce(report: Report) -> Html:
    inputs = [item for item in (report.inputs.model, report.inputs.dataset) if item is not None]
    files = [(item.name, item.format, bytes_text(item.size_bytes), item.sha256) for item in inputs]
    files += [(item.filename, item.format, bytes_text(item.size_bytes), item.sha256) for item in report.artifacts]
    spec = json.dumps(report.spec, indent=1)
    return _section(
        "Reproduce",
        Html(
            f"<pre>{escape(reproduce_command(report))}</pre>"
            + _table(("file", "format", "size", "sha256"), files)
            + f"<details><summary>The whole spec ({escape(report.spec_hash)})</summary><pre>{escape(spec)}</pre></details>"
        ),
    )


def _rows(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Html:
    """A section with a table; nothing without rows."""
    return _section(title, _table(header, rows)) if rows else Html("")


def _section(title: str, body: Html) -> Html:
    return Html(f"<h2>{_cell(title)}</h2>{body}")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Html:
    head = "".join(f"<th>{_cell(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return Html(f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')


def _cell(text: str) -> str:
    if isinstance(text, Html):
        return text
    return escape(text if len(text) <= MAX_CELL_CHARACTERS else text[:MAX_CELL_CHARACTERS] + "…")
