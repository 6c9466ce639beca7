"""A report as Markdown, for pull requests and model cards. Standard library only."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engine.reporting.details import detail_tables
from engine.reporting.text import MOST_WARNINGS, before_after, bytes_text, constraint_name, environment_rows, reproduce_command, value_text


def to_markdown(document: Mapping[str, Any]) -> str:
    """The report as GitHub-flavoured Markdown. Names that strangers chose cannot break out of their cells."""
    found = document["evaluation"]
    where = "random inputs" if found["inputs"] == "random" else f"the {found['split']} split"
    parts = [
        f"# {_text(document['name'] or 'Compression report')}",
        f"**{_text(document['sentence'])}**",
        "## Before and after",
        _table(("", "before", "after", "change"), before_after(document)),
        f"Measured on the published file, on {found['examples_count']} examples of {where}; in brackets: 95 % Wilson intervals.",
    ]
    if document["constraints"]:
        rows = [
            (
                constraint_name(item),
                f"{item['limit']:.6g}",
                "–" if item["value"] is None else f"{item['value']:.6g}",
                "met" if item["met"] else "**missed**",
            )
            for item in document["constraints"]
        ]
        parts += ["## Constraints", _table(("", "limit", "measured", ""), rows)]
    if document["warnings"]:
        lines = [f"- `{_text(item['code'])}` {_text(item['message'])}" for item in document["warnings"][:MOST_WARNINGS]]
        if more := len(document["warnings"][MOST_WARNINGS:]):
            lines.append(f"- {more} further warnings stand in report.json")
        parts += ["## Warnings", "\n".join(lines)]
    steps = [
        (
            step["index"] + 1,
            step["method"],
            ", ".join(f"{key} {value_text(key.partition('.')[2] or key, value)}" for key, value in step["metrics"].items()),
            f"{step['duration_seconds']:.1f} s",
        )
        for step in document["steps"]
    ]
    parts += ["## Steps", _table(("", "method", "measured after it", "time"), steps)]
    for table in detail_tables(document["steps"]):
        parts += [f"### {_text(table.title)}", _table(table.header, table.rows)]
    layers = [(layer["name"], layer["type"], *(_layer_side(layer[side]) for side in ("before", "after"))) for layer in document["layers"]]
    parts += ["## Layers", _table(("layer", "type", "before", "after"), layers)] if layers else []
    parts += ["## Environment", _table(("", ""), environment_rows(document))]
    parts += ["## Reproduce", f"```sh\n{reproduce_command(document).replace('`', '')}\n```"]
    files = [(item["filename"], bytes_text(item["size_bytes"]), item["sha256"]) for item in document["artifacts"]]
    parts += [_table(("file", "size", "sha256"), files)]
    return "\n\n".join(parts) + "\n"


def _layer_side(side: Mapping[str, Any] | None) -> str:
    if side is None:
        return "–"
    return f"{'×'.join(map(str, side['shape']))}, {side['bits']} bit, {bytes_text(side['bytes'])}, {value_text('sparsity', side['sparsity'])} zero"


def _table(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(map(str, header)) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows])


def _cell(value: Any) -> str:
    return str(value) if value == "**missed**" else _text(value)


def _text(value: Any) -> str:
    """Text that Markdown and the HTML inside of it leave alone."""
    text = " ".join(str(value).split())
    for sign in "\\`*_[]|#":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
