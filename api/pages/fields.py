"""Forms made of JSON Schemas: a field for each property, and the document that a sent form stands for.

An empty field is left out of the document, so that the default counts. What has no field of its own kind is written as YAML in one line.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from api.http import documents
from api.pages.forms import Form
from api.pages.words import inline
from core.errors import MalformedRequest

Schema = Mapping[str, Any]
MISSING = object()
MOST_DEPTH = 3
_NUMBERS = frozenset({"integer", "number"})


@dataclass(frozen=True)
class Field:
    """One property: how it is asked for, what was given, and what is wrong with that."""

    path: str
    """Its place in the document, such as `steps.0.finetune.epochs`: the field's name in the form."""
    label: str
    kind: Literal["choice", "number", "text", "yaml", "group"]
    help: str = ""
    default: str = ""
    required: bool = False
    choices: tuple[Any, ...] = ()
    fields: tuple["Field", ...] = ()
    """Of a group."""
    value: str = ""
    error: str = ""

    @property
    def brief(self) -> str:
        """The first sentence of the help."""
        return self.help.partition(". ")[0].removesuffix(".") + "." if self.help else ""

    @property
    def pointer(self) -> str:
        """Its JSON pointer."""
        return "/" + self.path.replace(".", "/")

    @property
    def filled(self) -> bool:
        """Whether anything was given, or is wrong."""
        return bool(self.value or self.error) or any(field.filled for field in self.fields)


def fields_of(schema: Schema, definitions: Schema, path: str, *, without: Sequence[str] = (), depth: int = 0) -> tuple[Field, ...]:
    """A field for each property of an object's schema."""
    required = schema.get("required", ())
    return tuple(
        _field(found, definitions, f"{path}.{name}" if path else name, required=name in required, depth=depth)
        for name, found in schema.get("properties", {}).items()
        if name not in without
    )


def _field(schema: Schema, definitions: Schema, path: str, *, required: bool, depth: int) -> Field:
    found = _resolved(schema, definitions)
    default = schema.get("default")
    label = path.rpartition(".")[2].replace("_", " ")
    label = label[:1].upper() + label[1:]
    text = str(schema.get("description") or found.get("description") or "").replace("\n", " ").replace("`", "")
    field = Field(path, label, "yaml", text, "" if default is None else inline(default), required)
    kind = found.get("type")
    if found.get("properties") and depth < MOST_DEPTH:
        return replace(field, kind="group", default="", fields=fields_of(found, definitions, path, depth=depth + 1))
    if "enum" in found:
        return replace(field, kind="choice", choices=tuple(found["enum"]))
    if "const" in found:
        return replace(field, kind="choice", choices=(found["const"],))
    if kind == "boolean":
        return replace(field, kind="choice", choices=(True, False))
    if kind in _NUMBERS:
        return replace(field, kind="number")
    return replace(field, kind="text") if kind == "string" else field


def _resolved(schema: Schema, definitions: Schema) -> Schema:
    """What a schema refers to, without the alternative of null."""
    for _ in range(MOST_DEPTH):
        if "$ref" in schema:
            schema = definitions[schema["$ref"].rpartition("/")[2]]
        alternatives = [item for item in schema.get("anyOf", schema.get("oneOf", ())) if item.get("type") != "null"]
        if len(alternatives) != 1:
            return schema if not alternatives else {"description": schema.get("description", "")}
        schema = alternatives[0]
    return schema


def given(fields: Sequence[Field], form: Form) -> tuple[Field, ...]:
    """The fields with what a form holds for them."""
    return tuple(replace(field, value=form.text(field.path), fields=given(field.fields, form)) for field in fields)


def written(fields: Sequence[Field], document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values of a form that stands for a document."""
    for field in fields:
        value = document.get(field.path.rpartition(".")[2])
        if value is None:
            continue
        if field.kind == "group" and isinstance(value, Mapping):
            yield from written(field.fields, value)
        elif field.kind != "group":
            yield field.path, inline(value)


def read(fields: Sequence[Field]) -> tuple[dict[str, Any], dict[str, str]]:
    """The document that filled fields stand for, and what cannot be read of it, by path."""
    document: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for field in fields:
        name = field.path.rpartition(".")[2]
        if field.kind == "group":
            inner, found = read(field.fields)
            errors |= found
            if inner:
                document[name] = inner
        elif field.value:
            try:
                document[name] = _value(field)
            except MalformedRequest as error:
                errors[field.path] = error.message
    return document, errors


def _value(field: Field) -> Any:
    text = field.value
    if field.kind == "choice":
        return next((choice for choice in field.choices if inline(choice) == text), text)
    if field.kind == "text":
        return text
    if field.kind == "number":
        for number in (int, float):
            try:
                return number(text)
            except ValueError:
                continue
        return text
    return documents.parse(text.encode(), "application/yaml")


def marked(fields: Sequence[Field], errors: Mapping[str, str]) -> tuple[Field, ...]:
    """The fields, each with what is wrong with it; `errors` are sentences by JSON pointer. What is wrong within a value is said at it."""
    return tuple(
        replace(
            field,
            fields=marked(field.fields, errors),
            error=""
            if field.kind == "group"
            else next((message for at, message in errors.items() if at == field.pointer or at.startswith(field.pointer + "/")), ""),
        )
        for field in fields
    )
