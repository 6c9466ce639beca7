"""Texts in lines of JSON as token numbers: read and tokenized a few hundred lines at a time, into scratch files that are mapped."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np

from engine.contract.errors import EngineError
from engine.contract.json import JsonObject
from engine.contract.metadata import DatasetMetadata
from engine.contract.table import SPLIT, TARGETS
from engine.contract.text import IGNORED, Role, TextSpec
from engine.data.archived import content
from engine.data.ragged import Ragged, mask_of, padded
from engine.data.stored import Array, Stored
from engine.data.tables import Draw, Scratch, stated_split
from engine.data.text_targets import ExampleTargets, TokenTargets
from engine.data.tokens import Bytes, FromFile, Text, Tokens, whole
from engine.files.archive import DAMAGED, open_archive, printable
from engine.files.jsonl import NAMING, contents_of, records
from engine.networks.network import Signature

_BATCH = 256
_ROWS = 4096
_ROLES: Mapping[str, Role] = {
    "input_ids": "ids",
    "tokens": "ids",
    "attention_mask": "mask",
    "token_type_ids": "types",
    "segment_ids": "types",
    "position_ids": "positions",
}


@dataclass(frozen=True)
class _Line:
    """One record, and where it stands."""

    split: str
    place: str
    record: JsonObject


@dataclass
class _Read:
    """What was read of all splits."""

    ids: Scratch
    types: Scratch
    targets: ExampleTargets | TokenTargets | None = None
    customary: bool = False
    """Whether no line before had a field that targets customarily have, so that none may follow."""
    lengths: dict[str, list[int]] = field(default_factory=dict)
    cut: int = 0


@dataclass(frozen=True)
class _Form:
    """What the examples are made to be."""

    spec: TextSpec
    roles: Mapping[str, Role]
    size: int
    pad: int


def read(path: Path, metadata: DatasetMetadata, signature: Signature | None, work: Path) -> Stored:
    """Token numbers (N, length) in int32 for the input that takes them, masks and the like for others, and `y`.

    Raises `dataset_invalid` with the line, `archive_limit_exceeded`, `decompression_limit_exceeded`.
    """
    spec = metadata.text or TextSpec()
    roles = _roles(signature, spec)
    length = spec.length or _length_of(signature, roles)
    try:
        with ExitStack() as stack:
            lines, tokenizer = _opened(path, spec, length, stack)
            found = _Read(stack.enter_context(Scratch(work, (), np.int32)), stack.enter_context(Scratch(work / "types", (), np.int8)))
            if spec.targets == "token":
                found.targets = stack.enter_context(TokenTargets(work / "targets"))
            while batch := list(islice(lines, _BATCH)):
                _take(batch, found, spec, tokenizer, length)
    except DAMAGED as error:
        raise EngineError("dataset_invalid", "The file is not a whole zip archive.", hint="Zip the files again.") from error
    if not found.lengths:
        raise EngineError("dataset_invalid", "The file holds no lines.", hint=NAMING)
    size = length or max(max(counts) for counts in found.lengths.values())
    return _stored(found, _Form(spec, roles, size, tokenizer.pad), metadata.labels, work)


def _opened(path: Path, spec: TextSpec, length: int | None, stack: ExitStack) -> tuple[Iterator[_Line], Bytes | FromFile]:
    """All lines in their order, and what makes token numbers of them."""
    file = stack.enter_context(path.open("rb"))
    if not zipfile.is_zipfile(path):
        if spec.tokenizer == "file":
            raise EngineError("dataset_invalid", "There is no tokenizer.json beside the lines.", hint="Send both in one zip.")
        return _placed([(None, "the file", file)], spec), Bytes(spec, length)
    archive = stack.enter_context(open_archive(file))
    contents = contents_of(archive)
    if spec.tokenizer == "file" and contents.tokenizer is None:
        raise EngineError("dataset_invalid", "The archive holds no tokenizer.json.", hint=NAMING)
    streams: list[tuple[str | None, str, IO[bytes]]] = [
        (split, printable(info.filename), io.BufferedReader(stack.enter_context(archive.open(info))))  # type: ignore[type-var]  # a member of an archive can be read, which is all that is asked of it
        for split, info in contents.lines.items()
    ]
    if contents.tokenizer is None or spec.tokenizer == "bytes":
        return _placed(streams, spec), Bytes(spec, length)
    return _placed(streams, spec), FromFile(content(archive, contents.tokenizer), spec, length)


def _placed(streams: Sequence[tuple[str | None, str, IO[bytes]]], spec: TextSpec) -> Iterator[_Line]:
    draw = Draw(spec.test_share)
    for named, name, stream in streams:
        column = spec.split
        for number, record in records(stream, name):
            place = f"Line {number} of {name}"
            if named is not None:
                yield _Line(named, place, record)
                continue
            if column is None and SPLIT in record and not spec.test_share and SPLIT not in (spec.text, spec.pair, spec.target):
                column = SPLIT
            if column is None:
                yield _Line(draw.splits(1)[0], place, record)
            else:
                stated = record.get(column)
                yield _Line(stated_split(stated.strip() if isinstance(stated, str) else str(stated), number, column), place, record)


def _take(batch: Sequence[_Line], found: _Read, spec: TextSpec, tokenizer: Bytes | FromFile, length: int | None) -> None:
    """Tokenize some lines and store them."""
    if found.targets is None and spec.targets == "example":
        name = spec.target or next((name for name in TARGETS if name in batch[0].record and name not in (spec.text, spec.pair)), None)
        found.targets = ExampleTargets(name)
        found.customary = name is None
    for line, tokens in zip(batch, _tokens(batch, spec, tokenizer, length), strict=True):
        late = [name for name in TARGETS if found.customary and name in line.record and name not in (spec.text, spec.pair)]
        if late:
            raise EngineError(
                "dataset_invalid",
                f"{line.place} has the field {late[0]!r}, which the first line lacks.",
                hint="Give every line its target, or name the field in metadata.text.target.",
            )
        if not tokens.ids:
            raise EngineError("dataset_invalid", f"{line.place} holds no token.", hint="Leave empty texts out.")
        found.ids.add(line.split, _numbers(tokens.ids, line.place))
        found.types.add(line.split, np.array(tokens.types, dtype=np.int8))
        found.lengths.setdefault(line.split, []).append(len(tokens.ids))
        found.cut += tokens.cut
        if isinstance(found.targets, ExampleTargets):
            found.targets.add(line.split, line.record, line.place)
        elif isinstance(found.targets, TokenTargets):
            name = spec.target or next((name for name in TARGETS if name in line.record), "target")
            given = line.record[spec.text]
            assert isinstance(given, str | list)
            units = len(given.encode("utf-8", "surrogatepass")) if isinstance(given, str) else len(given)
            if isinstance(given, str) and isinstance(tokenizer, FromFile):
                raise EngineError(
                    "dataset_invalid",
                    f"{line.place} has a text where targets belong to tokens: which of its words is which is not stated.",
                    hint="Give lists of words, of token numbers, or tokenizer: bytes.",
                )
            found.targets.add(line.split, line.record.get(name), tokens.words, units, line.place)


def _tokens(batch: Sequence[_Line], spec: TextSpec, tokenizer: Bytes | FromFile, length: int | None) -> list[Tokens]:
    texts: list[Text] = []
    ready: list[Tokens] = []
    for line in batch:
        given = line.record.get(spec.text)
        items = given if isinstance(given, list) else []
        numbers = [item for item in items if isinstance(item, int) and not isinstance(item, bool)]
        words = [item for item in items if isinstance(item, str)]
        if isinstance(given, str):
            texts.append(given)
        elif items and len(numbers) == len(items):
            ready.append(whole(numbers, spec, length))
        elif items and len(words) == len(items):
            texts.append(words)
        else:
            raise EngineError(
                "dataset_invalid",
                f"{line.place} has no text, and no list of token numbers or words, in the field {printable(spec.text)!r}.",
                hint=f"Fields: {', '.join(printable(name) for name in list(line.record)[:10]) or 'none'}; name another one in metadata.text.text.",
            )
    if (ready and texts) or len({type(text) for text in texts}) > 1:
        raise EngineError(
            "dataset_invalid", f"Some lines behind {batch[0].place} hold texts, and others lists.", hint="Give all of one kind."
        )
    pairs = None
    if spec.pair is not None:
        given_pairs = [line.record.get(spec.pair) for line in batch]
        pairs = [text for text in given_pairs if isinstance(text, str)]
        if len(pairs) < len(batch) or ready or not all(isinstance(text, str) for text in texts):
            raise EngineError("dataset_invalid", f"A line behind {batch[0].place} has no pair of texts.", hint=NAMING)
    return ready or tokenizer.encode(texts, pairs)


def _numbers(ids: Sequence[int], place: str) -> Array:
    if min(ids) < 0 or max(ids) >= 2**31:
        raise EngineError(
            "dataset_invalid", f"{place} has the token number {min(ids) if min(ids) < 0 else max(ids)}.", hint="They begin at 0."
        )
    return np.array(ids, dtype=np.int32)


def _roles(signature: Signature | None, spec: TextSpec) -> dict[str, Role]:
    """What each column is; without a network all that one may ask for. Raises `dataset_invalid` for an input whose role is not known."""
    if signature is None:
        shown = {name: role for name, role in _ROLES.items() if name in ("input_ids", "attention_mask", "token_type_ids")}
        asked = {f"x.{name}": role for name, role in {**shown, **spec.inputs}.items()}
        return {"x": "ids", **asked}
    names = [tensor.name for tensor in signature.inputs]
    if len(names) == 1:
        return {"x": spec.inputs.get(names[0], "ids")}
    if unknown := [name for name in names if name not in spec.inputs and name not in _ROLES]:
        raise EngineError(
            "dataset_invalid",
            f"What the network's input {printable(unknown[0])!r} is, its name does not tell.",
            hint="State it in metadata.text.inputs: ids, mask, types or positions.",
        )
    return {f"x.{name}": spec.inputs.get(name) or _ROLES[name] for name in names}


def _length_of(signature: Signature | None, roles: Mapping[str, Role]) -> int | None:
    """Length of the network's input of token numbers; None where it is left open."""
    for tensor in () if signature is None else signature.inputs:
        if roles.get("x" if len(roles) == 1 and "x" in roles else f"x.{tensor.name}") == "ids" and len(tensor.shape) == 2:
            return tensor.shape[1]
    return None


def _stored(found: _Read, form: _Form, labels: Sequence[str], work: Path) -> Stored:
    spec, roles, size = form.spec, form.roles, form.size
    lengths = {split: np.array(counts, dtype=np.int64) for split, counts in found.lengths.items()}
    ids = {split: Ragged.of(values, lengths[split], f"split {split}") for split, values in found.ids.mapped().items()}
    filled = padded(ids, size, pad=form.pad, longer=spec.longer, work=work, dtype=np.int32)
    made: dict[Role, dict[str, Array]] = {"ids": filled}
    if "mask" in roles.values():
        made["mask"] = {split: mask_of(part, size) for split, part in ids.items()}
    if "types" in roles.values():
        types = {split: Ragged(values, lengths[split]) for split, values in found.types.mapped().items()}
        made["types"] = padded(types, size, pad=0, longer=spec.longer, work=work, dtype=np.int8)
    if "positions" in roles.values():
        made["positions"] = {split: np.broadcast_to(np.arange(size), array.shape) for split, array in filled.items()}
    targets: dict[str, Array] = {}
    classes: tuple[str, ...] | None = tuple(labels) or None
    if spec.targets == "next_token":
        targets = _following(filled, lengths, work)
    elif isinstance(found.targets, ExampleTargets):
        targets, classes = found.targets.arrays(labels)
    elif found.targets is not None:
        flat, classes = found.targets.arrays(labels)
        parts = {split: Ragged(values, lengths[split]) for split, values in flat.items()}
        targets = padded(parts, size, pad=IGNORED, longer=spec.longer, work=work, dtype=np.int32)
    splits = {
        split: {**{name: made[role][split] for name, role in roles.items()}, **({"y": targets[split]} if targets else {})}
        for split in filled
    }
    count = sum(len(one) for one in lengths.values())
    notes = (f"{found.cut} of {count} texts were cut to {size} tokens.",) if found.cut else ()
    return Stored(splits, classes, NAMING, open_sizes=True, notes=notes)


def _following(filled: Mapping[str, Array], lengths: Mapping[str, Array], work: Path) -> dict[str, Array]:
    """The token behind each one; none behind the last of a text."""
    size = next(iter(filled.values())).shape[1]
    with Scratch(work, (size,), np.int32) as scratch:
        for split, array in filled.items():
            for start in range(0, len(array), _ROWS):
                rows = array[start : start + _ROWS]
                moved = np.full(rows.shape, IGNORED, dtype=np.int32)
                moved[:, :-1] = rows[:, 1:]
                moved[np.arange(size) + 1 >= lengths[split][start : start + _ROWS, None]] = IGNORED
                scratch.add(split, moved)
    return scratch.mapped()
