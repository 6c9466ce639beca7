"""A table that is picked from and, turned, multiplied with (an embedding that is the last layer too): a quantized file holds it once.

The runtime turns constants before a graph is quantized, so that they stand in it twice; afterwards they are told by their numbers.
"""

from collections.abc import Collection

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engine.formats.onnx.naming import FreshNames

FLOAT = frozenset({TensorProto.FLOAT})
STORED = frozenset({TensorProto.INT8, TensorProto.UINT8, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_WORTH = 512
"""Smaller matrices are not looked at: a node costs some hundred bytes."""
_CORNER = 16
"""Rows and columns by which matrices are looked up."""


def turned(model: onnx.ModelProto, types: Collection[int]) -> dict[str, str]:
    """Matrices of the main graph that are another one turned, with that other one's name: the one that is picked from, or else the first."""
    picked = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    matrices = [
        item for item in model.graph.initializer if item.data_type in types and len(item.dims) == 2 and np.prod(item.dims) >= _WORTH
    ]
    found: dict[str, str] = {}
    seen: dict[bytes, list[tuple[str, NDArray[np.generic]]]] = {}
    for item in sorted(matrices, key=lambda item: item.name not in picked):
        values = numpy_helper.to_array(item)
        one = next((name for name, other in seen.get(_key(values.T), ()) if np.array_equal(other, values.T)), None)
        if one is None:
            seen.setdefault(_key(values), []).append((item.name, values))
        else:
            found[item.name] = one
    return found


def _key(values: NDArray[np.generic]) -> bytes:
    return f"{values.dtype} {values.shape} ".encode() + values[:_CORNER, :_CORNER].tobytes()


def turn_in_graph(model: onnx.ModelProto, names: dict[str, str]) -> None:
    """Let the graph turn matrices itself instead of holding them, in place. The runtime does it once, as it loads the file."""
    fresh, graph = FreshNames(model.graph), model.graph
    nodes = [helper.make_node("Transpose", [one], [other], fresh.claim(f"{other}_turned"), perm=[1, 0]) for other, one in names.items()]
    kept = [item for item in graph.initializer if item.name not in names]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)
