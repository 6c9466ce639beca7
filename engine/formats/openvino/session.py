"""Runs OpenVINO IR as ONNX Runtime runs ONNX, so that the examiner can score it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.contract.errors import EngineError
from engine.formats.openvino.package import loaded

_KINDS = {"float32": "float", "float64": "double"}


@dataclass(frozen=True)
class End:
    """An input or output: as ONNX Runtime describes it, open dimensions by a name."""

    name: str
    shape: list[int | str]
    element: str
    """The type of its elements by numpy's name."""

    @property
    def type(self) -> str:
        """The type by the name that ONNX Runtime gives it."""
        return f"tensor({_KINDS.get(self.element, self.element)})"


class Session:
    """A file on the CPU, computed in the types that it states. Raises `model_invalid`."""

    def __init__(self, path: Path, *, threads: int) -> None:
        openvino = loaded()
        # By default processors with matrix units round float32 to bfloat16.
        settings = {"INFERENCE_NUM_THREADS": threads, "EXECUTION_MODE_HINT": "ACCURACY"}
        try:
            self._compiled = openvino.Core().compile_model(path, "CPU", settings)
        except Exception as error:
            raise EngineError("model_invalid", f"OpenVINO cannot load {path.name}.") from error

    def get_inputs(self) -> list[End]:
        """The inputs, in their order."""
        return ends(self._compiled.inputs)

    def get_outputs(self) -> list[End]:
        """The outputs, in their order."""
        return ends(self._compiled.outputs)

    def run(self, outputs: Sequence[str] | None, feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run one batch; of all outputs where `outputs` is None. Several threads may do so at once."""
        found = self._compiled.create_infer_request().infer({name: np.ascontiguousarray(value) for name, value in feed.items()})
        by_name = {item.get_any_name(): np.array(found[item]) for item in self._compiled.outputs}
        return [by_name[name] for name in (by_name if outputs is None else outputs)]


def open_session(path: Path, *, threads: int) -> Session:
    """Load a file."""
    return Session(path, threads=threads)


def ends(items: Sequence[Any]) -> list[End]:
    """Inputs or outputs of a model, compiled or not."""
    return [_end(item) for item in items]


def _end(item: Any) -> End:
    shape = [f"open_{place}" if size.is_dynamic else size.get_length() for place, size in enumerate(item.get_partial_shape())]
    return End(item.get_any_name(), shape, np.dtype(item.get_element_type().to_dtype()).name)
