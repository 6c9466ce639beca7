"""Targets of texts: one for each example, or one for each token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from engine.contract.errors import EngineError
from engine.contract.json import JsonObject
from engine.contract.text import IGNORED
from engine.data.stored import Array
from engine.data.tables import Scratch, numbered, values_of
from engine.files.archive import printable

_CHUNK = 1 << 20
_MOST = 2**31


class ExampleTargets:
    """A text, a number or a list of numbers for each example, all of one kind."""

    def __init__(self, name: str | None) -> None:
        """`name` is the field; None where there are no targets."""
        self._name = name
        self._values: dict[str, list[Any]] = {}
        self._kind: str | None = None

    def add(self, split: str, record: JsonObject, place: str) -> None:
        """The target of a line. Raises `dataset_invalid`."""
        if self._name is None:
            return
        value = record.get(self._name)
        kind = _kind(value)
        known = self._kind or kind
        if kind is None or kind != known:
            what = (
                "no target"
                if value is None or value == ""
                else f"a target of another kind than {known or 'a text, a number or a list of numbers'}"
            )
            raise EngineError(
                "dataset_invalid",
                f"{place} has {what} in the field {printable(self._name)!r}.",
                hint="Give every line a target of one kind.",
            )
        self._kind = kind
        self._values.setdefault(split, []).append(value)

    def arrays(self, labels: Sequence[str]) -> tuple[dict[str, Array], tuple[str, ...] | None]:
        """The targets of each split, and names of classes where they are texts."""
        if not self._values:
            return {}, None
        if self._kind == "a text":
            return numbered({split: [text.strip() for text in texts] for split, texts in self._values.items()}, labels)
        items = [item for values in self._values.values() for value in values for item in (value if isinstance(value, list) else [value])]
        whole = all(isinstance(item, int) for item in items)
        numbers = {split: np.array(values, dtype=np.int64 if whole else np.float64) for split, values in self._values.items()}
        return numbers if whole else values_of(numbers), None


class TokenTargets:
    """Class numbers, or texts that name classes, one for each token of each example; written into a scratch file."""

    def __init__(self, work: Path) -> None:
        self._scratch = Scratch(work, (), np.int32)
        self._names: dict[str, int] = {}
        self._texts: bool | None = None

    def __enter__(self) -> Self:
        self._scratch.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.__exit__()

    def add(self, split: str, given: object, words: Sequence[int | None], units: int, place: str) -> None:
        """Targets of the `units` words, bytes or token numbers of a line, moved to the first token of each. Raises `dataset_invalid`."""
        if not isinstance(given, list) or len(given) != units:
            have = f"{len(given)} targets" if isinstance(given, list) else "no list of targets"
            raise EngineError("dataset_invalid", f"{place} has {have} for {units} tokens.", hint="Give one target for each.")
        texts = all(isinstance(item, str) for item in given)
        if self._texts is None:
            self._texts = texts
        if texts != self._texts or not (texts or all(type(item) is int and IGNORED <= item < _MOST for item in given)):
            raise EngineError(
                "dataset_invalid", f"{place} has targets that are neither all texts nor all class numbers.", hint="Give one kind."
            )
        numbers = [self._names.setdefault(item, len(self._names)) for item in given] if texts else given
        first = [word is not None and (place_ == 0 or words[place_ - 1] != word) for place_, word in enumerate(words)]
        found = [numbers[word] if own and word is not None else IGNORED for word, own in zip(words, first, strict=True)]
        self._scratch.add(split, np.array(found, dtype=np.int32))

    def arrays(self, labels: Sequence[str]) -> tuple[Mapping[str, Array], tuple[str, ...] | None]:
        """The targets of each split, one behind the other, and names of classes where they are texts."""
        flat = self._scratch.mapped()
        if not self._texts:
            return flat, tuple(labels) or None
        order, classes = numbered({"all": list(self._names)}, labels)
        numbers = np.append(order["all"], 0)
        for array in flat.values():
            for start in range(0, len(array), _CHUNK):
                part = array[start : start + _CHUNK]
                array[start : start + _CHUNK] = np.where(part == IGNORED, IGNORED, numbers[np.maximum(part, 0)])
        return flat, classes


def _kind(value: object) -> str | None:
    if isinstance(value, str):
        return "a text" if value.strip() else None
    if isinstance(value, int | float):
        return "a number" if abs(value) < 2**63 else None
    if isinstance(value, list) and value and all(isinstance(item, int | float) and abs(item) < 2**63 for item in value):
        return f"a list of {len(value)} numbers"
    return None
