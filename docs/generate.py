"""Writes docs/methods.md from the catalogue; `--check` fails where the file is not fresh."""

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from generated import write_or_check

from engine.contract.method import MethodParams, catalogue

TARGET = Path(__file__).with_name("methods.md")
HEAD = """# Methods

Written by `make docs` from the catalogue (`engine/methods/<family>/spec.py`); do not edit. `GET /v1/methods` says the same as JSON.
Every step may also carry an `id`. Ratios are 0..1, never percent.
"""
YES_NO = {True: "yes", False: "no"}


def main() -> int:
    """Write the file, or compare it."""
    text = HEAD + "".join(section(name, method) for name, method in catalogue().items())
    return write_or_check(TARGET, text)


def section(name: str, method: type[MethodParams]) -> str:
    """One method as Markdown."""
    schema = method.model_json_schema()
    effect, needs = method.effect, method.requires
    lines = [
        f"\n## `{name}`\n",
        f"**{method.title}** · family `{method.family()}`\n",
        f"{schema.get('description', '').strip()}\n",
        f"Needs a dataset: {YES_NO[needs.dataset]}; labels: {YES_NO[needs.labels]}; trainable operators: {YES_NO[needs.trainable]}. "
        f"File: {effect.file_size.replace('_', ' ')}; dense latency: {effect.dense_latency.replace('_', ' ')}.\n",
        "| parameter | type | default | meaning |",
        "|---|---|---|---|",
        *fields(schema, schema["properties"]),
    ]
    for key, reason in method.forbids_next.items():
        lines.append(f"\nMay not be followed by {'any step' if key == '*' else f'`{key}`'}: {reason}.")
    for example in method.examples:
        lines.append(f"\n```yaml\n{yaml.safe_dump(dict(example), sort_keys=False, default_flow_style=None).strip()}\n```")
    if method.references:
        lines.append("\n" + "\n".join(f"- [{reference.title}]({reference.url})" for reference in method.references))
    return "\n".join(lines) + "\n"


def fields(schema: dict[str, Any], properties: dict[str, Any], prefix: str = "") -> list[str]:
    """Table rows of the properties; groups are written out once, as `group.field`."""
    rows = []
    for name, field in properties.items():
        if not prefix and name in ("method", "id"):
            continue
        group = next((item["$ref"] for item in [field, *field.get("anyOf", [])] if "$ref" in item), None)
        default = f"`{json.dumps(field['default'])}`" if "default" in field and not isinstance(field["default"], dict) else ""
        if "default" not in field:
            default = "required"
        meaning = " ".join(field.get("description", "").split()).replace("|", "\\|")
        rows.append(f"| `{prefix}{name}` | {type_of(schema, field)} | {default} | {meaning} |")
        if group:
            target = schema["$defs"][group.rsplit("/", 1)[-1]]
            if "properties" in target:
                rows += fields(schema, target["properties"], f"{prefix}{name}.")
    return rows


def type_of(schema: dict[str, Any], field: dict[str, Any]) -> str:
    """A short type with its bounds, such as `number > 0, < 1` or `"a" \\| "b"`."""
    if "anyOf" in field:
        return " \\| ".join(dict.fromkeys(type_of(schema, item) for item in field["anyOf"]))
    if "$ref" in field:
        target = schema["$defs"][field["$ref"].rsplit("/", 1)[-1]]
        return type_of(schema, target) if "properties" not in target else "group"
    if "enum" in field:
        return " \\| ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if field.get("type") == "array":
        return f"list of {type_of(schema, field['items'])}" if "items" in field else "list"
    bounds = [
        f"{sign} {field[key]:g}"
        for key, sign in (("exclusiveMinimum", ">"), ("minimum", "≥"), ("exclusiveMaximum", "<"), ("maximum", "≤"))
        if key in field
    ]
    return field.get("type", "any") + (" " + ", ".join(bounds) if bounds else "")


if __name__ == "__main__":
    sys.exit(main())
