"""The file while it is written: names, nodes, stored tensors, and what is known of every value's shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, fx, nn


class Unwritten(Exception):
    """An operation, or a form of it, that is not written here: no error, as the general exporter takes the network."""


@dataclass(frozen=True)
class Value:
    """A tensor of the file, with what it is for each of the tried batches (shapes and types only)."""

    name: str
    probes: tuple[Tensor, ...]

    @property
    def dtype(self) -> torch.dtype:
        """Type of its elements."""
        return self.probes[0].dtype

    @property
    def rank(self) -> int:
        """Number of its dimensions."""
        return self.probes[0].dim()

    def size(self, dim: int) -> int | None:
        """The size of a dimension; None where it differs between the tried batches."""
        sizes = {probe.shape[dim] for probe in self.probes}
        return sizes.pop() if len(sizes) == 1 else None

    def along(self, dim: int) -> int:
        """A dimension counted from the front."""
        return dim + self.rank if dim < 0 else dim


@dataclass(frozen=True)
class Size:
    """A whole number that depends on the batch: a tensor of one element in the file."""

    name: str
    values: tuple[int, ...]


class Writer:
    """Nodes and stored tensors of the graph so far."""

    def __init__(self, module: fx.GraphModule, taken: Sequence[str]) -> None:
        self.module = module
        self.nodes: list[onnx.NodeProto] = []
        self.stored: dict[str, onnx.TensorProto] = {}
        self.folded: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        """Layers whose normalization is computed by them, with their new weight and bias."""
        self.absorbed: set[nn.Module] = set()
        """Those normalizations."""
        self.node: fx.Node | None = None
        """The operation that is being written."""
        self.probes: tuple[Any, ...] = ()
        """What it gives, for each of the tried batches."""
        self._taken = set(taken)
        self._numbers: dict[Any, str] = {}
        self._names = {id(item): name for name, item in (*module.named_parameters(), *module.named_buffers())}
        self._places = Counter(id(item) for _, item in module.named_parameters(remove_duplicate=False))
        self._count = 0

    # Names

    def free(self, wanted: str) -> str:
        """`wanted`, or the next one like it that nothing is called yet."""
        name, number = wanted, 0
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name

    def _made_up(self) -> str:
        self._count += 1
        return self.free(f"val_{self._count}")

    # Stored tensors

    def weight(self, tensor: Tensor, suffix: str = "", changed: Tensor | None = None) -> str:
        """A parameter or buffer under its own name, once however many layers read it; `changed` is stored in its place, under that name
        and the suffix.
        """
        known = f"{self._names.get(id(tensor), '')}{suffix}"
        if not self._names.get(id(tensor)):
            return self.constant((tensor if changed is None else changed).detach().cpu().numpy())
        key = ("weight", known)
        if key not in self._numbers:
            value = tensor if changed is None else changed
            self._numbers[key] = self._store(self.free(known), value.detach().cpu().contiguous().numpy())
        return self._numbers[key]

    def transposed(self, tensor: Tensor) -> str:
        """The transpose of a matrix: stored so, or computed where other places read the matrix too, so that it is stored once."""
        if self._places[id(tensor)] < 2:
            return self.weight(tensor, "_transposed", tensor.detach().t())
        key = ("transpose", id(tensor))
        if key not in self._numbers:
            self._numbers[key] = str(self.emit("Transpose", self.weight(tensor), perm=[1, 0]))
        return self._numbers[key]

    def bias_of(self, layer: nn.Module, value: Tensor) -> str:
        """A bias that a layer has got, under the name that its own has or would have."""
        own = getattr(layer, "bias", None)
        if isinstance(own, Tensor):
            return self.weight(own, changed=value)
        name = self._names[id(layer.weight)].removesuffix("weight") + "bias"
        return self._store(self.free(name), value.detach().cpu().contiguous().numpy())

    def constant(self, array: Any, dtype: torch.dtype | None = None) -> str:
        """A tensor that no layer has; equal small ones are stored once."""
        values = np.asarray(array) if dtype is None else torch.tensor(array, dtype=dtype).numpy()
        key = (values.dtype.str, values.shape, values.tobytes()) if values.size <= 16 else None
        if key is None or key not in self._numbers:
            name = self._store(self._made_up(), values)
            if key is None:
                return name
            self._numbers[key] = name
        return self._numbers[key]

    def integers(self, *values: int) -> str:
        """A row of whole numbers, such as axes."""
        return self.constant(np.array(values, np.int64))

    def _store(self, name: str, values: np.ndarray[Any, Any]) -> str:
        self.stored[name] = numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name)
        return name

    # Nodes

    def emit(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; the name of its output, or a list of names of several."""
        assert self.node is not None
        path = str(self.node.target) if self.node.op == "call_module" else ""
        names = [self.free(self.node.name) for _ in range(outputs)]
        label = f"/{path}/{kind}" if path else f"/{kind}"
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=label, **attributes))
        return names[0] if outputs == 1 else names

    def cast(self, value: Value, dtype: torch.dtype) -> str:
        """The value in another type, where it has another one."""
        return value.name if value.dtype == dtype else str(self.emit("Cast", value.name, to=element_type(dtype)))

    def operand(self, value: Any, dtype: torch.dtype) -> str:
        """A tensor or a number as a tensor of the given type."""
        if isinstance(value, Value):
            return self.cast(value, dtype)
        if isinstance(value, bool | int | float):
            return self.constant(value, dtype)
        raise Unwritten

    def row(self, value: Any) -> str:
        """A whole number as a row of one element."""
        if isinstance(value, Size):
            return value.name
        if isinstance(value, int):
            return self.integers(value)
        raise Unwritten

    def reshaped(self, source: str, before: Sequence[Sequence[int]], after: Sequence[Sequence[int]]) -> str:
        """The tensor in another shape; `before` and `after` hold the shapes for each of the tried batches."""
        if all(list(a) == list(b) for a, b in zip(before, after, strict=True)):
            return source
        sizes: list[int] = []
        for dim, found in enumerate(zip(*after, strict=True)):
            if len(set(found)) == 1:
                sizes.append(found[0])
            elif dim < len(before[0]) and all(shape[dim] == size for shape, size in zip(before, found, strict=True)):
                sizes.append(0)  # copied
            else:
                sizes.append(-1)
        fixed = [size for size, found in zip(sizes, zip(*after, strict=True), strict=True) if len(set(found)) == 1]
        if 0 in fixed or sizes.count(-1) > 1:
            raise Unwritten
        if -1 not in sizes and sizes.count(0) == 1:
            sizes[sizes.index(0)] = -1  # says the same to readers that know one open size only
        return str(self.emit("Reshape", source, self.integers(*sizes)))


def element_type(dtype: torch.dtype) -> int:
    """ONNX's number of a type."""
    try:
        return int(helper.np_dtype_to_tensor_dtype(torch.empty(0, dtype=dtype).numpy().dtype))
    except (TypeError, KeyError, ValueError):
        raise Unwritten from None


def shapes(value: Value) -> list[tuple[int, ...]]:
    """The shapes of a value for each of the tried batches."""
    return [tuple(probe.shape) for probe in value.probes]
