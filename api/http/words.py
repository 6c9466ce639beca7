"""Words and labels that clients choose, as fields of documents and of queries."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number is expected, got true or false")
    return value


NO_TRUTH = BeforeValidator(_no_truth)
"""Of a number, behind its bounds: Python takes true for 1."""
PRINTABLE = r"^[^\x00-\x1f\x7f]+$"
"""A pattern for words that clients choose: databases and terminals take no control characters."""
Word = Annotated[str, Field(max_length=400, pattern=PRINTABLE)]
Text = Annotated[str, Field(max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$")]


def _pairs(most: int, values: dict[str, Any]) -> WithJsonSchema:
    """Of every key: pydantic's own schema leaves those alone that do not match the pattern."""
    names = {"minLength": 1, "maxLength": 63, "pattern": PRINTABLE}
    return WithJsonSchema({"type": "object", "maxProperties": most, "propertyNames": names, "additionalProperties": values})


_TEXT = {"type": "string", "maxLength": 255, "pattern": r"^[^\x00-\x1f\x7f]*$"}
Labels = Annotated[dict[Annotated[str, Field(max_length=63, pattern=PRINTABLE)], Text], Field(max_length=16), _pairs(16, _TEXT)]
"""Pairs to find a thing by."""
LabelChanges = Annotated[
    dict[Annotated[str, Field(max_length=63, pattern=PRINTABLE)], Text | None],
    Field(max_length=32),
    _pairs(32, {"anyOf": [_TEXT, {"type": "null"}]}),
]
"""Labels to give or to change; null takes one away."""
