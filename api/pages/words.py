"""Figures and times as people read them: the report's words, and those that only pages need."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import yaml

from api.codes.catalogue import path_of
from engine.contract.metric import Key, first_of
from engine.reporting.text import bytes_text, change_text, count_text, key_text, number_text, ratio_text

OUTCOMES = {"constraints_met": "constraints met", "constraints_not_met": "constraints missed", "no_constraints": "no constraints"}
MOST_CHARACTERS = 600
MOST_DOCUMENT_CHARACTERS = 200_000
_STEPS = ((60, 1, "s"), (3600, 60, "min"), (172_800, 3600, "h"))


def duration(seconds: float | None) -> str:
    """A length of time in short."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    for below, unit, name in _STEPS:
        if seconds < below:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:.0f} days"


def ago(moment: datetime | None) -> str:
    """How long ago something was."""
    if moment is None:
        return "never"
    seconds = (datetime.now(UTC) - moment).total_seconds()
    return "just now" if seconds < 5 else f"{duration(seconds)} ago"


def date(moment: datetime | None) -> str:
    """A moment to the second, in UTC."""
    return "–" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def shape(sizes: Any) -> str:
    """The shape of an array; an open dimension is an n."""
    return " × ".join("n" if size is None else str(size) for size in sizes) or "scalar"


def first_metric(metrics: dict[str, float | None]) -> str | None:
    """The metric that speaks for a network: of the test split where there is one."""
    return first_of(key for key in metrics if Key.parse(key).split == "test") or first_of(metrics)


def upfirst(text: str) -> str:
    """A sentence that begins with a capital."""
    return text[:1].upper() + text[1:]


def short(text: Any) -> str:
    """A cell of a table; what strangers chose is cut, so that it cannot blow a page up."""
    written = str(text)
    return written if len(written) <= MOST_CHARACTERS else written[:MOST_CHARACTERS] + "…"


def inline(value: Any) -> str:
    """A value of a document in one line."""
    if isinstance(value, str):
        return value
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


def yaml_text(document: Any) -> str:
    """A document as people write it, cut where nobody would read on."""
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
    return text if len(text) <= MOST_DOCUMENT_CHARACTERS else text[:MOST_DOCUMENT_CHARACTERS] + "\n# … cut here\n"


FILTERS: dict[str, Callable[..., Any]] = {
    "ago": ago,
    "bytes": bytes_text,
    "change": change_text,
    "count": count_text,
    "date": date,
    "duration": duration,
    "number": number_text,
    "problem_path": path_of,
    "ratio": ratio_text,
    "shape": shape,
    "short": short,
    "statusquery": "&status={}".format,
    "inline": inline,
    "metric": key_text,
    "upfirst": upfirst,
    "yaml": yaml_text,
}
