"""The words of this service for what is wrong with a value or a name, and for what to do about it."""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic_core import ErrorDetails

SHOWN_CHARACTERS = 80
"""How much of a text that a stranger chose is repeated in a sentence."""
_COMMON_STEM = 4
"""Letters at the beginning that make two words the same one in other forms, as prune and pruning are."""
MOST_NAMES = 24
"""Names listed in one hint."""
_EXPECTED = {
    "string": "a text",
    "int": "a whole number",
    "float": "a number",
    "decimal": "a number",
    "bool": "true or false",
    "tuple": "a list",
    "list": "a list",
    "set": "a list",
    "frozen_set": "a list",
    "dict": "an object",
    "mapping": "an object",
    "model": "an object",
    "model_attributes": "an object",
    "dataclass": "an object",
    "none_required": "null",
    "datetime": "a time as RFC 3339 writes it, such as 2026-01-31T12:00:00Z",
}
_BOUNDS = {
    "greater_than": ("gt", "must be more than"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be less than"),
    "less_than_equal": ("le", "must be at most"),
}
_IDENTIFIERS = {"mdl": ("model", "POST /v1/models"), "ds": ("dataset", "POST /v1/datasets")}
_OTHERS = {"job": "job", "art": "artifact", "upl": "upload", "evt": "event", "key": "key"}
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def sentence(item: ErrorDetails) -> tuple[str, str | None]:
    """One finding of pydantic as a sentence, and what to do."""
    kind, value, context = item["type"], item.get("input"), item.get("ctx", {})
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"{words} {in_words(context[key])}, got {in_words(value)}", None
    if kind == "missing":
        return "is required", None
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"])
        return f"{in_words(value)} is none of {context['expected'].replace(' or ', ', ')}", _close(value, allowed)
    if kind == "string_pattern_mismatch":
        return _pattern(str(value), context["pattern"])
    if kind in ("string_too_short", "string_too_long", "too_short", "too_long"):
        bound = context["min_length" if kind.endswith("short") else "max_length"]
        what = "characters" if kind.startswith("string") else "entries"
        size = len(str(value)) if kind.startswith("string") else context.get("actual_length")
        return f"{'at least' if kind.endswith('short') else 'at most'} {bound} {what} are allowed, got {size or 'more'}", None
    base = kind.removesuffix("_type").removesuffix("_parsing").removesuffix("_from_float").removesuffix("_parsing_size")
    if base in _EXPECTED:
        return f"{_EXPECTED[base]} is expected, got {in_words(value)}", _as_number(value, whole=base == "int") if base in (
            "int",
            "float",
        ) else None
    if kind == "finite_number":
        return f"a finite number is expected, got {in_words(value)}", None
    detail, _, advice = item["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ").partition("; ")
    return detail.replace("Input should be", "should be"), advice or None


def suggestion(name: str, known: Iterable[str], *, kind: str = "known") -> str | None:
    """A hint that names what is close to `name`, by spelling or as another form of one of its words; else all that is known."""
    names = sorted(known)
    shown = name[:SHOWN_CHARACTERS].lower()
    close = difflib.get_close_matches(shown, names, n=1)
    if not close and len(shown) >= _COMMON_STEM:
        stem = shown[: max(_COMMON_STEM, len(shown) - 3)]
        close = [each for each in names if any(word.startswith(stem) for word in re.split(r"[_.]", each))][:4]
    if close:
        return f"did you mean {_any_of(close)}?"
    return f"{kind}: {', '.join(names[:MOST_NAMES])}{', …' if len(names) > MOST_NAMES else ''}" if names else None


def _pattern(value: str, pattern: str) -> tuple[str, str | None]:
    """What is wrong with a text that does not match; patterns of ids are explained."""
    wanted = next((prefix for prefix in _IDENTIFIERS if f"{prefix}_[" in pattern), None)
    if wanted is None:
        hint = f"write it in capitals, such as {value.upper()}" if value.upper() != value and re.match(pattern, value.upper()) else None
        return f"{in_quotes(value)} does not match {pattern}", hint
    what, route = _IDENTIFIERS[wanted]
    kinds = {**{prefix: name for prefix, (name, _) in _IDENTIFIERS.items()}, **_OTHERS}
    other = kinds.get(value.partition("_")[0]) if "_" in value else None
    detail = f"{in_quotes(value)} is the id of a {other}" if other and other != what else f"{in_quotes(value)} is no id of a {what}"
    words = ", or `baseline`" if "baseline" in pattern else ""
    return detail, f"ids of {what}s begin with {wanted}_{words}: upload the file with {route} and name the id that it answers"


def _as_number(value: Any, *, whole: bool) -> str | None:
    """How a text with a unit or a percent sign would be written."""
    if not isinstance(value, str):
        return None
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(%|[kKmMgG]?i?)[bB]?\s*", value)
    if found is None:
        return None
    number, unit = float(found[1]), found[2].lower()
    if unit == "%":
        return None if whole else f"write {number / 100:g}: ratios are 0..1"
    return f"write {int(number * _UNITS[unit])}: bytes without a unit" if unit in _UNITS and whole else None


def _close(value: Any, known: Sequence[str]) -> str | None:
    close = difflib.get_close_matches(value[:SHOWN_CHARACTERS], known, n=1) if isinstance(value, str) else []
    return f"did you mean {close[0]!r}?" if close else None


def _any_of(names: Sequence[str]) -> str:
    quoted = [f"'{name}'" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def in_words(value: Any) -> str:
    """A value in a sentence: numbers and short texts as they are, larger things by their kind."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, str):
        return in_quotes(value)
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)[:SHOWN_CHARACTERS]
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list | tuple) else "something else"


def in_quotes(text: str) -> str:
    """A text that a stranger chose, cut short and quoted."""
    return repr(text[:SHOWN_CHARACTERS])
