"""What the values inside of a traced network are: seen from two runs with batches of different sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from engine.contract.errors import EngineError

_SIZES = (2, 3)


@dataclass(frozen=True)
class Value:
    """A tensor that one node computes; `shape` with None where the batch is."""

    shape: tuple[int | None, ...]
    dtype: torch.dtype
    mixed: bool
    """Whether examples share a dimension with something else, so that those of one example cannot be taken out."""

    @property
    def batch_axis(self) -> int | None:
        """The dimension that counts examples; None where the value is the same for all of them."""
        return self.shape.index(None) if None in self.shape else None


class Traced:
    """A network as a graph of operations, with what each of them gives."""

    def __init__(self, module: fx.GraphModule, inputs: Sequence[Tensor]) -> None:
        """`inputs` are of any batch of at least three examples."""
        self.module, self.graph = module, module.graph
        runs = []
        with torch.no_grad():
            for size in _SIZES:
                recorder = _Recorder(module)
                recorder.run(*(value[:size] if value.ndim else value for value in inputs))
                runs.append(recorder.found)
        self.values: dict[fx.Node, Value] = {}
        """Of every node that gives one tensor."""
        self.parts: set[fx.Node] = set()
        """Nodes that give several tensors at once."""
        for node, first in runs[0].items():
            second = runs[1][node]
            if isinstance(first, Tensor) and isinstance(second, Tensor):
                self.values[node] = _compared(first, second)
            elif isinstance(first, tuple | list) and any(isinstance(item, Tensor) for item in first):
                self.parts.add(node)

    def repeated(self, node: fx.Node) -> bool:
        """Whether a node is no result that is handed on: numbers, sizes and what belongs to the network are computed where they are read."""
        if node.op == "get_attr":
            return True
        if node in self.parts or node.op == "placeholder":
            return False
        value = self.values.get(node)
        if value is None:
            return True
        return value.batch_axis is None and not value.mixed and all(self.repeated(item) for item in node.all_input_nodes)

    def before(self, ends: Sequence[fx.Node]) -> set[fx.Node]:
        """The nodes that `ends` follow from, themselves included."""
        found: set[fx.Node] = set()
        waiting = list(ends)
        while waiting:
            node = waiting.pop()
            if node not in found:
                found.add(node)
                waiting += node.all_input_nodes
        return found


def traced(module: nn.Module, method: str = "forward") -> fx.GraphModule:
    """The graph of a module's `method`, with the module's own layers. Raises `exits_impossible` where tracing does not show it."""
    if isinstance(module, fx.GraphModule) and method == "forward":
        return module

    class Tracer(fx.Tracer):
        traced_func_name = method

    try:
        return fx.GraphModule(module, Tracer().trace(module))
    except Exception as error:
        raise EngineError(
            "exits_impossible",
            f"The order of the network's layers depends on what it computes: {str(error).splitlines()[0][:200]}.",
            hint="Upload the network as ONNX, which holds its graph.",
        ) from error


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.found: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and remember what it gave; of tensors only the form."""
        result = super().run_node(n)
        self.found[n] = result.detach().to("meta") if isinstance(result, Tensor) else result
        return result


def _compared(first: Tensor, second: Tensor) -> Value:
    differing = [place for place, (a, b) in enumerate(zip(first.shape, second.shape, strict=True)) if a != b]
    counted = [place for place in differing if (first.shape[place], second.shape[place]) == _SIZES]
    mixed = len(differing) != len(counted) or len(counted) > 1
    shape = tuple(None if place in counted[:1] and not mixed else size for place, size in enumerate(first.shape))
    return Value(shape, first.dtype, mixed)
