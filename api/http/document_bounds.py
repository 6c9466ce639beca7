"""What a document from a stranger may be, in JSON and in YAML alike, and what is said of another one."""

from typing import Any

from core.errors import MalformedRequest

MAX_DEPTH = 32
MAX_VALUES = 20_000
"""Values in a document, keys included, after its YAML aliases are expanded."""


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of its pairs. Raises ValueError where a key stands in it twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {key[:80]!r} stands twice in one object")
            seen.add(key)
    return found


def too_deep() -> MalformedRequest:
    """The error about more levels than `MAX_DEPTH`."""
    return MalformedRequest(f"the document is nested deeper than {MAX_DEPTH} levels")


def too_many(most_values: int) -> MalformedRequest:
    """The error about more than `most_values` values."""
    return MalformedRequest(f"the document holds more than {most_values} values")
