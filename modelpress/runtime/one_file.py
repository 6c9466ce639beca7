"""Runs one setting of an ONNX file that holds several, see `modelpress.runtime.subnets`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from modelpress.runtime.subnets import Entry, open_settings


class Subnet:
    """One setting, ready to run."""

    def __init__(self, content: bytes, entry: Entry, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self.setting = entry.name
        self.values = entry.values
        self._session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The outputs by name."""
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs)), strict=True))


def load(path: Path, *, setting: str | None = None, threads: int = 1, **values: float | str) -> Subnet:
    """The setting with a name, or with values such as `width=0.5`; by default the first, the largest. Raises `ArtifactError`."""
    packed = open_settings(path)
    entry = packed.setting(setting, **values)
    return Subnet(b"".join(packed.cut(entry)), entry, threads)
