"""Outputs of the baseline's file on all examples, kept on disk: it runs once for every state that is compared with it. Numpy only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from engine.measuring.examples import Batch

Arrays = list[NDArray[Any]]
MAX_STORED_OUTPUT_BYTES = 1 << 30
"""Outputs are kept up to this size; larger ones are computed again where they are needed."""
_COMPLETE = "complete"


class OutputStore:
    """The baseline's outputs for all examples, memory-mapped files in one directory; nothing where they would be too large."""

    def __init__(self, directory: Path, count: int) -> None:
        self._directory = directory
        self._count = count
        self._files: list[np.memmap[Any, Any]] = []
        self._too_large = False

    @property
    def complete(self) -> bool:
        """Whether the outputs were stored."""
        return (self._directory / _COMPLETE).exists()

    def keep(self, batch: Batch, place: slice, outputs: Arrays) -> Arrays:
        """Store one batch of outputs, unless all of them would be too large or do not have the examples in their first dimension."""
        if not self._files and not self._too_large:
            size = sum(output.nbytes for output in outputs) * self._count // max(1, batch.count)
            fits = size <= MAX_STORED_OUTPUT_BYTES and all(output.ndim and len(output) == batch.count for output in outputs)
            self._too_large = not fits
            if fits:
                self._directory.mkdir(parents=True, exist_ok=True)
                self._files = [
                    _reserved(self._directory / f"{i}.npy", output.dtype, (self._count, *output.shape[1:]))
                    for i, output in enumerate(outputs)
                ]
        for file, output in zip(self._files, outputs, strict=False):
            file[place] = output
        return outputs

    def read(self, batch: Batch, place: slice, _: Arrays) -> Arrays:
        """The stored outputs of one batch."""
        if not self._files:
            self._files = list(stored_outputs(self._directory) or ())
        return [np.asarray(file[place]) for file in self._files]

    def close(self) -> None:
        """Mark outputs that were written as complete."""
        if self._files and not self.complete:
            (self._directory / _COMPLETE).touch()


def _reserved(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """A file of so much room: a full disk is an OSError here, where writing to the memory of a file with holes ends the process (SIGBUS)."""
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def stored_outputs(directory: Path) -> list[np.memmap[Any, Any]] | None:
    """Every output for all examples, memory-mapped; None where they were not kept."""
    if not (directory / _COMPLETE).exists():
        return None
    return [np.lib.format.open_memmap(path, "r") for path in sorted(directory.glob("*.npy"), key=lambda path: int(path.stem))]
