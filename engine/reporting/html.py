"""A report as one HTML page: own styles and SVG, no script, nothing from elsewhere. Standard library only."""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from engine.reporting.details import detail_tables
from engine.reporting.text import (
    MOST_WARNINGS,
    before_after,
    bytes_text,
    constraint_name,
    environment_rows,
    ratio_text,
    reproduce_command,
    value_text,
)

MAX_LAYERS = 200
"""Layers in the table of the page; the JSON document has all of them."""
MAX_CELL_CHARACTERS = 200
"""Longer texts are cut, so that a stranger's names cannot blow the page up."""
_STYLE = """
:root{--ink:#1d2430;--dim:#5c6675;--line:#d9dee6;--good:#14794a;--bad:#b3261e;--before:#b8c1cf;--after:#2f6fde;--card:#f6f8fb}
@media (prefers-color-scheme:dark){:root{--ink:#e6eaf0;--dim:#9aa5b5;--line:#333c49;--good:#5bc98f;--bad:#ff8a80;--before:#596575;
--after:#7aa7ff;--card:#1b212a}body{background:#12161c}}
*{box-sizing:border-box}body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);max-width:70rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}.lead{font-size:1.15rem}.dim{color:var(--dim)}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--dim)}td{font-variant-numeric:tabular-nums}span.time{white-space:nowrap}.scroll{overflow-x:auto}
.good{color:var(--good);font-weight:600}.bad{color:var(--bad);font-weight:600}
.cards{display:flex;flex-wrap:wrap;gap:.75rem;margin:1rem 0}.card{background:var(--card);border-radius:.5rem;padding:.75rem 1rem;min-width:9rem}
.card b{display:block;font-size:1.4rem}pre{background:var(--card);padding:.75rem 1rem;border-radius:.5rem;overflow-x:auto;font-size:13px}
td,li{overflow-wrap:anywhere}svg{display:block}@media print{body{max-width:none;margin:0}}
"""


class Html(str):
    """Markup that is safe already; everything else is escaped."""


def to_html(document: Mapping[str, Any]) -> str:
    """The report as a page of its own (below 200 kB). Names that strangers chose are escaped everywhere."""
    title = document["name"] or "Compression report"
    sections = [
        Html(f"<h1>{escape(str(title))}</h1>"),
        Html(f'<p class="lead">{escape(document["sentence"])}</p>'),
        _cards(document),
        _section("Before and after", _table(("", "before", "after", "change"), [_marked(row) for row in before_after(document)])),
        Html(f'<p class="dim">{escape(_evaluated(document["evaluation"]))}</p>'),
        _constraints(document["constraints"]),
        _warnings(document["warnings"]),
        _steps(document["steps"]),
        *(_section(table.title, _table(table.header, table.rows)) for table in detail_tables(document["steps"])),
        _layers(document["layers"]),
        _operators(document["steps"]),
        _section("Environment", _table(("", ""), environment_rows(document))),
        _reproduce(document),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>{escape(str(title))}</title>'
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head><body>{"".join(sections)}</body></html>\n'


def _evaluated(found: Mapping[str, Any]) -> str:
    where = "random inputs, for want of a dataset" if found["inputs"] == "random" else f"the {found['split']} split"
    return f"Measured on the published file, on {found['examples_count']} examples of {where}. In brackets: 95 % Wilson intervals."


def _marked(row: Sequence[str]) -> tuple[Any, ...]:
    """The verdict on speed in colour."""
    for word, look in (("faster", "good"), ("slower", "bad")):
        if row[3].startswith(word):
            return (*row[:3], Html(f'<span class="{look}">{escape(row[3])}</span>'))
    return tuple(row)


def _cards(document: Mapping[str, Any]) -> Html:
    compared = document["comparison"]
    facts = [
        ("smaller file", ratio_text(compared["file_ratio"])),
        ("fewer parameters", ratio_text(compared["params_ratio"])),
        ("fewer operations", ratio_text(compared["macs_ratio"])),
        (f"speed: {document['verdict']}", ratio_text(compared["latencies"][0]["speedup"])),
    ]
    return Html('<div class="cards">' + "".join(f'<div class="card"><b>{escape(v)}</b>{escape(k)}</div>' for k, v in facts) + "</div>")


def _constraints(checks: Sequence[Mapping[str, Any]]) -> Html:
    if not checks:
        return Html("")
    rows = [
        (
            constraint_name(item),
            f"{item['limit']:.6g}",
            "–" if item["value"] is None else f"{item['value']:.6g}",
            Html('<span class="good">met</span>') if item["met"] else Html('<span class="bad">missed</span>'),
        )
        for item in checks
    ]
    return _section("Constraints", _table(("", "limit", "measured", ""), rows))


def _warnings(warnings: Sequence[Mapping[str, Any]]) -> Html:
    if not warnings:
        return Html("")
    items = "".join(
        f"<li><code>{escape(str(item['code']))}</code> {escape(str(item['message']))}</li>" for item in warnings[:MOST_WARNINGS]
    )
    if len(warnings) > MOST_WARNINGS:
        items += f"<li>{len(warnings) - MOST_WARNINGS} further warnings stand in report.json</li>"
    return _section("Warnings", Html(f"<ul>{items}</ul>"))


def _steps(steps: Sequence[Mapping[str, Any]]) -> Html:
    rows = []
    for step in steps:
        measured = ", ".join(f"{key} {value_text(key.partition('.')[2] or key, value)}" for key, value in step["metrics"].items())
        rows.append((step["index"] + 1, step["title"], measured, Html(f'<span class="time">{step["duration_seconds"]:.1f} s</span>')))
    return _section("Steps", _table(("", "method", "measured after it", "time"), rows))


def _layers(layers: Sequence[Mapping[str, Any]]) -> Html:
    if not layers:
        return Html("")
    largest = max((layer["before"]["bytes"] for layer in layers), default=1) or 1
    rows = [
        (layer["name"], layer["type"], _side(layer["before"]), _side(layer["after"]), _bars(layer, largest))
        for layer in layers[:MAX_LAYERS]
    ]
    left = len(layers) - len(rows)
    note = Html(f'<p class="dim">{left} more layers stand in report.json.</p>') if left else Html("")
    return Html(_section("Layers", _table(("layer", "type", "before", "after", "bytes"), rows)) + note)


def _side(side: Mapping[str, Any] | None) -> str:
    if side is None:
        return "–"
    zeros = f", {value_text('sparsity', side['sparsity'])} zero" if side["sparsity"] >= 0.005 else ""
    return f"{'×'.join(map(str, side['shape']))}, {side['bits']} bit, {bytes_text(side['bytes'])}{zeros}"


def _bars(layer: Mapping[str, Any], largest: int) -> Html:
    widths = [160 * (layer[side]["bytes"] if layer[side] else 0) / largest for side in ("before", "after")]
    bars = "".join(
        f'<rect y="{2 + 9 * i}" width="{max(width, 0.5):.1f}" height="7" rx="1" fill="var(--{side})"/>'
        for i, (side, width) in enumerate(zip(("before", "after"), widths, strict=True))
    )
    return Html(f'<svg width="162" height="20" role="img" aria-label="bytes before and after">{bars}</svg>')


def _operators(steps: Sequence[Mapping[str, Any]]) -> Html:
    counts = next((step["report"]["operators"] for step in reversed(steps) if "operators" in step["report"]), None)
    if not counts:
        return Html("")
    rows = [(name, count["int8"], count["float"]) for name, count in counts.items()]
    return _section("Operators that the runtime executes", _table(("operator", "in int8", "in floating point"), rows))


def _reproduce(document: Mapping[str, Any]) -> Html:
    files = [
        (item["name"], item["format"], bytes_text(item["size_bytes"]), item["sha256"])
        for item in (document["inputs"]["model"], document["inputs"]["dataset"])
        if item is not None
    ]
    files += [(item["filename"], item["format"], bytes_text(item["size_bytes"]), item["sha256"]) for item in document["artifacts"]]
    spec = json.dumps(document["spec"], indent=1)
    return _section(
        "Reproduce",
        Html(
            f"<pre>{escape(reproduce_command(document))}</pre>"
            + _table(("file", "format", "size", "sha256"), files)
            + f"<details><summary>The whole spec ({escape(document['spec_hash'])})</summary><pre>{escape(spec)}</pre></details>"
        ),
    )


def _section(title: str, body: Html) -> Html:
    return Html(f"<h2>{escape(title)}</h2>{body}")


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Html:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return Html(f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')


def _cell(value: Any) -> str:
    if isinstance(value, Html):
        return value
    text = str(value)
    return escape(text if len(text) <= MAX_CELL_CHARACTERS else text[:MAX_CELL_CHARACTERS] + "…")
