"""JSON as the database and the wire take it: no NaN, no infinity, no NUL characters."""

import json
import math
from typing import Any


def to_json(value: Any) -> str:
    """Compact JSON; numbers that JSON does not know become null, as PostgreSQL and browsers refuse them."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(finite(value), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.replace("\\u0000", "\\ufffd")


def finite(value: Any) -> Any:
    """The same tree with every NaN and infinity replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def clean(text: str) -> str:
    """The same text as a database column takes it."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
