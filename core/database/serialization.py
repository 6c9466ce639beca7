"""JSON and text as both databases and every browser take them: no NaN, no infinity, no NUL, no half of a surrogate pair."""

import json
import math
from typing import Any


def to_json(value: Any) -> str:
    """Compact JSON; what JSON or PostgreSQL do not know is replaced as `storable` does."""
    try:
        text = _dump(value)
        text.encode()
    except ValueError:
        return _dump(storable(value))
    return text if "\\u0000" not in text else _dump(storable(value))


def storable(value: Any) -> Any:
    """The same tree with every number that is not finite replaced by None, and every text by `clean`."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return value


def clean(text: str) -> str:
    """The same text with a replacement character for what a database column does not take."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def _dump(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
