"""Texts as lines of JSON: one file, or a zip of files called like splits with a `tokenizer.json`; the standard library only."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO

from pydantic import JsonValue

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.contract.file_format import FileFormat
from engine.contract.json import JsonObject
from engine.files import folders
from engine.files.archive import open_archive, printable
from engine.files.effort import spend

TOKENIZER = "tokenizer.json"
NAMING = 'Each line is one object: {"text": "…", "label": "…"}. A zip holds train.jsonl, test.jsonl (or one file), and tokenizer.json.'
_ENDING = ".jsonl"
_ARCHIVE = b"PK\x03\x04"
_BESIDE = ("tokenizer_config.json", "special_tokens_map.json")
"""Files that lie beside a tokenizer; they are not read."""


@dataclass(frozen=True)
class Contents:
    """The members of an archive that are read."""

    lines: dict[str | None, zipfile.ZipInfo]
    """By split; the only file that is called otherwise has None."""
    tokenizer: zipfile.ZipInfo | None


def recognizes(head: bytes) -> bool:
    """Whether a file begins with two objects on lines of their own, or is an archive of such files and a tokenizer."""
    if head.startswith(_ARCHIVE):
        names = [PurePosixPath(name).name for name in folders.first_names(head) if not name.endswith("/")]
        return bool(names) and all(name.endswith(_ENDING) or name in (TOKENIZER, *_BESIDE) for name in names)
    first, _, rest = head.lstrip(b"\xef\xbb\xbf\r\n").partition(b"\n")
    if not first.startswith(b"{") or not rest.lstrip(b"\r\n").startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def check(stream: IO[bytes], size: int) -> None:
    """Check the members of an archive, or the first line of a file. Raises `dataset_invalid`, `decompression_limit_exceeded`, and `archive.DAMAGED`."""
    if stream.read(4) == _ARCHIVE:
        with open_archive(stream) as archive:
            contents_of(archive)
        return
    stream.seek(0)
    next(records(stream, "the file"), None)


def contents_of(archive: zipfile.ZipFile) -> Contents:
    """The files of lines by split, and the tokenizer. Raises `dataset_invalid`, `decompression_limit_exceeded`."""
    lines: dict[str | None, zipfile.ZipInfo] = {}
    tokenizer = None
    for info in folders.members(archive):
        name = PurePosixPath(info.filename).name
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _refused(info, "is encrypted or compressed in an unusual way")
        limit = limits.MAX_TOKENIZER_BYTES if name == TOKENIZER else limits.MAX_DATASET_BYTES
        large = info.file_size > limits.FREE_INFLATE_BYTES and info.file_size > limits.MAX_INFLATE_RATIO * info.compress_size
        if info.file_size > limit or large:
            raise folders.bomb(info.filename, f"{info.file_size} bytes from {info.compress_size}")
        if name == TOKENIZER:
            if tokenizer is not None:
                raise _refused(info, "is a second tokenizer")
            tokenizer = info
        elif name.endswith(_ENDING):
            stem = PurePosixPath(name).stem
            split = folders.ALIASES.get(stem, stem) if stem in folders.SPLIT_FOLDERS else None
            if split in lines:
                raise _refused(info, "is a second file of its split, or of none")
            lines[split] = info
        elif name not in _BESIDE:
            raise _refused(info, "is neither lines of JSON nor a tokenizer")
    if not lines:
        raise EngineError("dataset_invalid", "The archive holds no lines of JSON.", hint=NAMING)
    if None in lines and len(lines) > 1:
        raise _refused(lines[None], "lies beside files called like splits, and is not")
    return Contents(lines, tokenizer)


def records(stream: IO[bytes], name: str) -> Iterator[tuple[int, JsonObject]]:
    """Every line's number and object; empty lines are left out. Raises `dataset_invalid` with the line."""
    number = 0
    while line := stream.readline(limits.MAX_LINE_BYTES + 1):
        spend(1)
        number += 1
        if len(line) > limits.MAX_LINE_BYTES:
            raise EngineError(
                "dataset_invalid", f"Line {number} of {name} has more than {limits.MAX_LINE_BYTES} bytes.", hint="Cut the text into parts."
            )
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not text.strip():
            continue
        try:
            found = json.loads(text.decode(), object_pairs_hook=_once, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise EngineError("dataset_invalid", f"Line {number} of {name} is not JSON: {str(error)[:120]}.", hint=NAMING) from error
        if not isinstance(found, dict):
            raise EngineError("dataset_invalid", f"Line {number} of {name} is no object.", hint=NAMING)
        yield number, found


def _once(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a field stands twice")
    return found


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")


def _refused(info: zipfile.ZipInfo, why: str) -> EngineError:
    return EngineError("dataset_invalid", f"{printable(info.filename)!r} {why}.", hint=NAMING)


FORMAT = FileFormat("jsonl", "dataset", (".jsonl",), recognizes, check)
