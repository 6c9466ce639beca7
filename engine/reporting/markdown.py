"""A report as Markdown, for pull requests and model cards."""

from collections.abc import Iterable, Sequence

from engine.contract.display import Note
from engine.contract.report import Report
from engine.reporting.details import cells, details
from engine.reporting.layers import layers_notes, sensitivity_text, share_text
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
    reproduce_command,
    setting_rows,
    step_metrics,
)


def to_markdown(report: Report) -> str:
    """The report as GitHub-flavoured Markdown. Names that strangers chose cannot break out of their cells."""
    parts = [
        f"# {plain(report.name or 'Compression report')}",
        f"**{plain(report.sentence)}**",
        "## Before and after",
        lines_of_table(("", "before", "after", "change"), before_after(report)),
        plain(evaluated_text(report)),
    ]
    if settings := setting_rows(report):
        parts += ["## Settings", lines_of_table(SETTING_COLUMNS, settings)]
    for curve in trade_offs(report):
        parts += [f"## {curve.title}", lines_of_table(*cells(curve))]
    if report.constraints:
        parts += ["## Constraints", lines_of_table(("", "limit", "measured", ""), map(constraint_row, report.constraints))]
    if report.warnings:
        lines = [f"- `{plain(item.code)}` {plain(item.message)}" for item in report.warnings[:MOST_WARNINGS]]
        if more := len(report.warnings[MOST_WARNINGS:]):
            lines.append(f"- {more} further warnings are in report.json")
        parts += ["## Warnings", "\n".join(lines)]
    steps = [(str(step.index + 1), step.method, step_metrics(step.metrics), f"{step.duration_seconds:.1f} s") for step in report.steps]
    parts += ["## Steps", lines_of_table(("", "method", "measured after it", "time"), steps)]
    for title, item in details(report.steps):
        parts += [f"### {plain(title)}", plain(item.text) if isinstance(item, Note) else lines_of_table(*cells(item))]
    layers = [
        (item.name, item.type, layer_text(item.before), layer_text(item.after), share_text(item), sensitivity_text(item.sensitivity))
        for item in report.layers
    ]
    header = ("layer", "type", "before", "after", "of the time", "sensitivity")
    parts += ["## Layers", lines_of_table(header, layers), *map(plain, layers_notes(report))] if layers else []
    parts += ["## Environment", lines_of_table(("", ""), environment_rows(report))]
    parts += ["## Reproduce", f"```sh\n{reproduce_command(report).replace('`', '')}\n```"]
    files = [(item.filename, bytes_text(item.size_bytes), item.sha256) for item in report.artifacts]
    parts += [lines_of_table(("file", "size", "sha256"), files)]
    return "\n\n".join(parts) + "\n"


def lines_of_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in the pipes of Markdown."""
    lines = ["| " + " | ".join(map(plain, header)) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(map(_cell, row)) + " |" for row in rows])


def _cell(text: str) -> str:
    return "**missed**" if text == "missed" else plain(text)


def plain(text: str) -> str:
    """Text that Markdown and the HTML inside of it leave alone."""
    text = " ".join(text.split())
    for sign in "\\`*_[]|#":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
