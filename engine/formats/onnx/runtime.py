"""ONNX Runtime with the errors of the engine."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from engine.contract.errors import PAST_THE_END, EngineError

Feed = Mapping[str, NDArray[Any]]
CPU = ["CPUExecutionProvider"]


class Session(Protocol):
    """What runs a file: ONNX Runtime's session, or one that a format brings for a runtime of its own."""

    def get_inputs(self) -> Sequence[Any]:
        """The inputs, each with name, shape and type."""
        ...

    def get_outputs(self) -> Sequence[Any]:
        """The outputs, each with name, shape and type."""
        ...

    def run(self, outputs: Sequence[str] | None, feed: dict[str, Any]) -> list[Any]:
        """Run one batch."""
        ...


def dtype_of(kind: str) -> np.dtype[Any] | None:
    """The numpy type of a tensor of ONNX Runtime, such as `tensor(float)`; None for one that numpy does not have."""
    element = kind.removeprefix("tensor(").removesuffix(")")
    try:
        return np.dtype({"float": "float32", "double": "float64"}.get(element, element))
    except TypeError:
        return None


def open_session(
    path: Path,
    *,
    threads: int,
    save_optimized: Path | None = None,
    optimized: bool = True,
    frugal: bool = False,
    by_priority: bool = False,
    profile: Path | None = None,
) -> ort.InferenceSession:
    """Load an ONNX file on the CPU, with ONNX Runtime's defaults but for the number of threads.

    Args:
        path: The file.
        threads: Threads inside one operator.
        save_optimized: Where to write the graph that really runs.
        optimized: Whether the runtime may rewrite the graph; without, every operator runs as the file says, in float where it says so.
        frugal: Give memory back as soon as a value was read for the last time, instead of keeping an arena.
        by_priority: Run nodes in the runtime's other order, which on some graphs lets go of values earlier.
        profile: Beginning of the path of a file that takes every operator that ran; its `end_profiling` returns the whole path.

    Raises:
        EngineError: `model_invalid` where the runtime refuses the file, `out_of_memory`.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised, and said by us
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if frugal:
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    if by_priority:
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    if save_optimized is not None:
        options.optimized_model_filepath = str(save_optimized)
    with _translated("model_invalid", f"ONNX Runtime cannot load {path.name}"):
        return ort.InferenceSession(path, options, providers=CPU)


def optimize(model: bytes, constants: Mapping[str, NDArray[Any]], target: Path, *, apart: Path, from_bytes: int) -> None:
    """Write a model to `target` after the optimizations that do not depend on the machine.

    Args:
        model: The file's bytes.
        constants: Values of the constants that the model states to lie in another file, by name.
        target: The file.
        apart: Takes the constants that have `from_bytes` or more; in the same directory.
        from_bytes: See there.

    Raises:
        EngineError: `model_invalid` where the runtime refuses the model, `out_of_memory`.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 4
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", apart.name)
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", str(from_bytes))
    if constants:
        options.add_external_initializers(list(constants), [ort.OrtValue.ortvalue_from_numpy(value) for value in constants.values()])
    with _translated("model_invalid", "ONNX Runtime cannot load the network"):
        ort.InferenceSession(model, options, providers=CPU)


def run(session: Session, feed: Feed, outputs: list[str] | None = None) -> list[NDArray[Any]]:
    """Run one batch. Raises `model_invalid` where an operator fails on it, `out_of_memory`."""
    with _translated("model_invalid", "ONNX Runtime cannot run the network on this input"):
        results: list[NDArray[Any]] = session.run(outputs, dict(feed))
        return results


_HINTS = {
    "Export the network in float32 (`module.float()`): the runtime has no kernel for the operator in its present type.": (
        "tensor(bfloat16)",
        "Could not find an implementation",
    ),
    f"A number of an input is past the end of the table that the network picks from. {PAST_THE_END}": ("out of data bounds",),
}
"""By words of the runtime's messages."""


@contextmanager
def _translated(code: str, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryError) or "allocate" in str(error) or "bad_alloc" in str(error):
            raise EngineError(
                "out_of_memory",
                f"{what}: it needs more memory than this job may use.",
                hint="Lower evaluation.batch_size or calibration.batch_size, or raise limits.memory_bytes.",
                category="resource",
            ) from error
        hint = next((hint for hint, signs in _HINTS.items() if any(words in str(error) for words in signs)), None)
        raise EngineError(code, f"{what}: {_first_line(error)}", hint=hint) from error


def _first_line(error: Exception) -> str:
    # Paths of this machine are nothing that a message may hold.
    text = re.sub(r"Load model from .+? failed: ?", "", str(error)).strip() or type(error).__name__
    return text.splitlines()[0][:500]


def batches(indices: NDArray[np.int64], size: int, fixed: int | None) -> Iterator[NDArray[np.int64]]:
    """Cut `indices` into batches of at most `size`.

    A network whose batch dimension is `fixed` gets batches of just that many, the last one filled up with its last example; the
    caller drops what is too much.
    """
    step = fixed or size
    for start in range(0, len(indices), step):
        part = indices[start : start + step]
        yield np.pad(part, (0, step - len(part)), mode="edge") if fixed else part
