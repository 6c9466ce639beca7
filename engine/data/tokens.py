"""Texts as token numbers: bytes of UTF-8, or what a `tokenizer.json` of Hugging Face's tokenizers says.

Such a file is data, no program; but its patterns may take very long, so that a batch of texts has a deadline. Truncation, padding and
dropout that the file states are switched off: the dataset's metadata says what is cut, and a text has the same tokens whenever it is read.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.contract.errors import EngineError
from engine.contract.text import TextSpec
from engine.files.archive import printable

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would be beside those that the job was given

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SECONDS, _CHARACTERS_PER_SECOND = 20.0, 20_000
_PADDING = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>")
Text = str | list[str]
"""A text, or its words."""


@dataclass(frozen=True)
class Tokens:
    """One text."""

    ids: list[int]
    types: list[int]
    words: list[int | None]
    """Number of the word (or byte) that each token belongs to; None for special tokens."""
    cut: bool


class Bytes:
    """Bytes of UTF-8."""

    def __init__(self, spec: TextSpec, length: int | None) -> None:
        self._spec, self._length = spec, length
        self.pad = spec.pad or 0

    def encode(self, texts: Sequence[Text], pairs: Sequence[str] | None) -> list[Tokens]:
        """The tokens of each text. Raises `dataset_invalid`."""
        found = []
        for text in texts:
            if not isinstance(text, str):
                raise EngineError("dataset_invalid", "Lists of words need a tokenizer file.", hint="Send tokenizer.json along in a zip.")
            numbers = [byte + self._spec.offset for byte in text.encode("utf-8", "surrogatepass")]
            found.append(whole(numbers, self._spec, self._length))
        return found


class FromFile:
    """What a `tokenizer.json` says."""

    def __init__(self, data: bytes, spec: TextSpec, length: int | None) -> None:
        """Raises `dataset_invalid` where the file is no tokenizer."""
        from tokenizers import Tokenizer

        try:
            self._tokenizer: Tokenizer = _within(_SECONDS, Tokenizer.from_str, data.decode())
        except UnicodeDecodeError as error:
            raise EngineError(
                "dataset_invalid", "tokenizer.json is not UTF-8.", hint="Send the file of tokenizer.save(path) along."
            ) from error
        self._special = spec.special_tokens
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if getattr(self._tokenizer.model, "dropout", None):  # leaves out merges by chance
            self._tokenizer.model.dropout = None
        if length is not None and spec.longer != "refuse":
            _within(_SECONDS, self._tokenizer.enable_truncation, length, direction="right" if spec.longer == "cut_end" else "left")
        known = [number for name in _PADDING if (number := self._tokenizer.token_to_id(name)) is not None]
        self.pad = spec.pad if spec.pad is not None else known[0] if known else 0

    def encode(self, texts: Sequence[Text], pairs: Sequence[str] | None) -> list[Tokens]:
        """The tokens of each text, or pair of texts. Raises `dataset_invalid` where the tokenizer fails, or takes too long."""
        given: list[Any] = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        characters = sum(len(text) if isinstance(text, str) else sum(map(len, text)) for text in (*texts, *(pairs or ())))
        split = bool(texts) and not isinstance(texts[0], str)
        found = _within(
            _SECONDS + characters / _CHARACTERS_PER_SECOND,
            self._tokenizer.encode_batch,
            given,
            is_pretokenized=split,
            add_special_tokens=self._special,
        )
        return [Tokens(one.ids, one.type_ids, one.word_ids, bool(one.overflowing)) for one in found]


def whole(numbers: list[int], spec: TextSpec, length: int | None) -> Tokens:
    """Token numbers that are there already, cut where that is stated."""
    places: list[int | None] = list(range(len(numbers)))
    cut = length is not None and len(numbers) > length and spec.longer != "refuse"
    if cut:
        kept = slice(0, length) if spec.longer == "cut_end" else slice(len(numbers) - (length or 0), None)
        numbers, places = numbers[kept], places[kept]
    return Tokens(numbers, [0] * len(numbers), places, cut)


def _within(seconds: float, function: Any, *given: Any, **named: Any) -> Any:
    """What a function of the tokenizer returns, which holds no lock of Python meanwhile. Raises `dataset_invalid` for all that goes wrong in it."""
    outcome: list[Any] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(function(*given, **named))
        except BaseException as error:  # the library panics in a class of its own, below BaseException
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True, name="tokenizer")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise EngineError(
            "dataset_invalid",
            f"The tokenizer did not end within {seconds:.0f} s.",
            hint="Its patterns may backtrack without end: simplify them.",
        )
    if failure:
        if isinstance(failure[0], MemoryError):
            raise failure[0]
        raise EngineError(
            "dataset_invalid",
            f"The tokenizer failed: {printable(str(failure[0]))}.",
            hint="Send the file of tokenizer.save(path) along, and texts that it takes.",
        ) from failure[0]
    return outcome[0]
