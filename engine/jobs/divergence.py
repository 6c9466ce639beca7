"""Where an exported file and the module in memory part: the first layer whose output is nowhere in the file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from engine.contract.json import JsonObject
from engine.formats.onnx import runtime
from engine.formats.onnx.runtime import Feed
from engine.networks.network import Signature

if TYPE_CHECKING:
    from torch import nn

Array = NDArray[np.float64]
_EXAMPLES = 2


@dataclass(frozen=True)
class Divergence:
    """The first layer that computes something else in the file."""

    layer: str
    type: str
    max_abs_difference: float | None
    """From the nearest tensor of the file with the same shape; None where there is none, or it is not finite."""
    max_abs_value: float
    """Of the layer's output in memory."""

    def sentence(self) -> str:
        """As it stands in a message."""
        how = "has no counterpart" if self.max_abs_difference is None else f"is off by {self.max_abs_difference:.4g}"
        return f"the first layer that differs is {self.layer!r} ({self.type}), whose output of up to {self.max_abs_value:.4g} {how}"

    def details(self) -> JsonObject:
        """As JSON types."""
        return asdict(self)


def first_divergence(
    module: nn.Module, signature: Signature, file: Path, feed: Feed, *, absolute: float, relative: float, threads: int, work: Path
) -> Divergence | None:
    """Run both on a few examples and compare what every layer gives; None where no layer can be told apart.

    A layer is at fault where its inputs are in the file and its output is not. What the exporter folds into the layer before it is in the
    file under that layer's successor: an output that is missing is none to blame where the layer that reads it is found.

    Args:
        module: The module in memory, in eval mode on the CPU.
        signature: Its inputs.
        file: The exported file.
        feed: Examples.
        absolute: What two numbers may differ by,
        relative: and what share of the largest number they may differ by besides.
        threads: Threads of ONNX Runtime.
        work: Directory for the instrumented file.
    """
    opened = all(spec.shape and spec.shape[0] is None for spec in signature.inputs)
    few = {name: value[:_EXAMPLES] if opened else value for name, value in feed.items()}
    layers = _layer_outputs(module, [few[spec.name] for spec in signature.inputs])
    tensors = _file_tensors(file, few, threads=threads, work=work)
    for value in few.values():
        tensors.setdefault(value.shape, []).append(value.astype(np.float64))

    def known(value: torch.Tensor) -> bool:
        array = _array(value)
        distance = _distance(array, tensors)
        return distance is not None and distance <= absolute + relative * float(np.abs(array).max(initial=0))

    same = [known(layer.output) for layer in layers]
    for layer, found in zip(layers, same, strict=True):
        if found or not all(known(value) for value in layer.inputs):
            continue
        readers = (right for right, other in zip(same, layers, strict=True) if any(value is layer.output for value in other.inputs))
        if not any(readers):
            array = _array(layer.output)
            return Divergence(layer.name, layer.type, _distance(array, tensors), float(np.abs(array).max(initial=0)))
    return None


@dataclass(frozen=True)
class _Call:
    """One run of one layer."""

    name: str
    type: str
    inputs: tuple[torch.Tensor, ...]
    output: torch.Tensor


def _layer_outputs(module: nn.Module, inputs: list[NDArray[Any]]) -> list[_Call]:
    """What every layer was given and gave, of those without layers inside, in the order in which they run."""
    found: list[_Call] = []

    def keep(name: str, kind: str) -> Any:
        def hook(_module: nn.Module, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) and output else output
            if isinstance(first, torch.Tensor) and first.is_floating_point():
                given = tuple(value for value in inputs if isinstance(value, torch.Tensor) and value.is_floating_point())
                found.append(_Call(name, kind, given, first))

        return hook

    leaves = [(name, layer) for name, layer in module.named_modules() if name and not list(layer.children())]
    handles = [layer.register_forward_hook(keep(name, type(layer).__name__)) for name, layer in leaves]
    try:
        with torch.no_grad():
            module(*(torch.from_numpy(np.require(value, requirements=("C", "W"))) for value in inputs))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _file_tensors(file: Path, feed: Feed, *, threads: int, work: Path) -> dict[tuple[int, ...], list[Array]]:
    """Every floating-point tensor that the file computes, by shape."""
    model = onnx.load(file)
    outputs = {item.name for item in model.graph.output}
    for node in model.graph.node:
        for name in node.output:
            if name and name not in outputs:
                outputs.add(name)
                model.graph.output.append(onnx.ValueInfoProto(name=name))
    path = work / "every_tensor.onnx"
    onnx.save(model, path)
    session = runtime.open_session(path, threads=threads, optimized=False)
    path.unlink()
    given = {item.name for item in session.get_inputs()}
    found: dict[tuple[int, ...], list[Array]] = {}
    for value in runtime.run(session, {name: array for name, array in feed.items() if name in given}):
        if isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating):
            found.setdefault(value.shape, []).append(value.astype(np.float64))
    return found


def _array(value: torch.Tensor) -> Array:
    array: Array = value.detach().double().numpy()
    return array


def _distance(output: Array, tensors: dict[tuple[int, ...], list[Array]]) -> float | None:
    """The largest difference from the nearest tensor of the same shape."""
    distances = [
        float(np.max(np.where(output == other, 0.0, np.abs(output - other)), initial=0)) for other in tensors.get(output.shape, ())
    ]
    finite = [distance for distance in distances if np.isfinite(distance)]
    return min(finite, default=None)
