"""A state in the formats beside ONNX: written, read again by a fresh process as uploads are, compared and scored like the ONNX file.

What a format cannot express is not published in it, with the reason; the other formats are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.contract.errors import EngineError
from engine.contract.file_format import ending_of, format_of
from engine.formats.loading import write_network
from engine.measuring.examiner.messages import DigestRequest, TensorDigest
from engine.measuring.reloading import Reloading
from engine.networks.network import Network, Signature, TensorSpec

if TYPE_CHECKING:
    from engine.measuring.examiner.client import Examiner

REFUSAL = "export_unsupported"
"""Code of what a format cannot express."""
_NOT_HELD = frozenset({REFUSAL, "not_trainable", "unsupported_operator", "shape_mismatch", "tensor_limit_exceeded"})
"""Codes by which a writer or the reader says that a network is none that the format holds."""


@dataclass(frozen=True)
class Written:
    """A state in one format."""

    format: str
    network: Network
    """In the form that the format holds: of a graph the trainable one, where the format holds modules."""
    paths: tuple[Path, ...]
    reread: Path
    """The file as ONNX, once the signature was waited for; the file itself where its format has a runtime of its own."""
    reloading: Reloading | None
    """What reads the file again, as an upload; None where its own runtime does."""


@dataclass
class OtherFormats:
    """The formats beside ONNX in which a state is published."""

    written: list[Written] = field(default_factory=list)
    refused: dict[str, EngineError] = field(default_factory=dict)
    """Why a format is not published."""

    @classmethod
    def write(cls, network: Network, formats: Sequence[str], directory: Path, work: Path) -> OtherFormats:
        """Write a plain network in each of the formats, and have each read again meanwhile."""
        found = cls()
        for name in formats:
            try:
                held = _held(network, name)
                paths = write_network(held, name, directory / f"model{ending_of(name)}")
            except EngineError as error:
                if error.code not in _NOT_HELD:
                    raise
                found._refuse(name, error)
                continue
            if format_of(name, "model").runs:
                found.written.append(Written(name, held, paths, paths[0], None))
                continue
            reread = work / f"reread_{name}.onnx"
            found.written.append(Written(name, held, paths, reread, Reloading(name, paths[0], reread, work / f"reread_{name}")))
        return found

    def check(self, examiner: Examiner) -> None:
        """Compare the weights bit for bit, and wait until each file was read. Raises `export_mismatch`."""
        for item in list(self.written):
            if item.reloading is None:
                continue
            _compare_tensors(item.network, item.format, item.paths[0], examiner)
            try:
                found = item.reloading.signature()
                if (difference := _difference(item.network.signature, found)) is not None:
                    raise EngineError(REFUSAL, difference, hint="Export ONNX.")
            except EngineError as error:
                if error.code not in _NOT_HELD:
                    raise
                self._remove(item, error)

    def withdraw(self, item: Written, error: EngineError) -> None:
        """Do not publish what another runtime computes differently, or not at all. Raises `error` where this service read the file again."""
        if item.reloading is not None:
            raise error
        self._remove(item, error)

    def close(self) -> None:
        """End what is still being read."""
        for item in self.written:
            if item.reloading is not None:
                item.reloading.close()

    def _remove(self, item: Written, error: EngineError) -> None:
        self.written.remove(item)
        if item.reloading is not None:
            item.reloading.close()
        for path in item.paths:
            path.unlink()
        self._refuse(item.format, error)

    def _refuse(self, name: str, error: EngineError) -> None:
        self.refused[name] = EngineError(REFUSAL, f"The result is not published as {name}: {error.message}", hint=error.hint)


def _held(network: Network, name: str) -> Network:
    """The network as the format holds it. Raises `not_trainable` and what the import of a graph does."""
    if not format_of(name, "model").holds_modules:
        return network
    return network.measure(on_file=lambda _: network.with_module(network.module).plain(), on_module=lambda _: network)


def _difference(wanted: Signature, found: Signature) -> str | None:
    """How inputs and outputs of the file that was read differ from the network's, in a sentence."""
    for side, ours, theirs in (("input", wanted.inputs, found.inputs), ("output", wanted.outputs, found.outputs)):
        if [(spec.name, spec.dtype) for spec in ours] != [(spec.name, spec.dtype) for spec in theirs]:
            return f"Its {side}s would be {_text(theirs)} instead of {_text(ours)}."
    for own, other in zip(wanted.inputs, found.inputs, strict=True):
        if len(own.shape) != len(other.shape) or any(
            size is not None and size != open_size for size, open_size in zip(other.shape, own.shape, strict=True)
        ):
            return f"The input {own.name!r} would take the shape {other.shape} only, instead of {own.shape}."
    return None


def _text(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name!r} ({spec.dtype})" for spec in specs)


def _compare_tensors(network: Network, format: str, file: Path, examiner: Examiner) -> None:
    """A file of weights against those in memory, bit for bit."""
    stored = examiner.digest(DigestRequest(file=file, format=format))()
    expected: Mapping[str, TensorDigest] = {name: _digest(array) for name, array in network.tensors()}
    wrong = sorted(name for name in {*stored, *expected} if stored.get(name) != expected.get(name))
    if wrong:
        raise EngineError(
            "export_mismatch",
            f"The {format} file does not hold the network's weights: {', '.join(wrong[:5])} differ.",
            category="internal",
        )


def _digest(array: NDArray[Any]) -> TensorDigest:
    return TensorDigest(shape=array.shape, sha256=hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest())
