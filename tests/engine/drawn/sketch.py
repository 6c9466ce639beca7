"""A graph that grows one operator at a time; every operator is run as it is added, so that only graphs come out that compute."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray
BATCH = 11
"""Batch in which the drawn values are kept."""
_LARGEST = 200.0
NASTY = (
    *("w", "w_scale", "w_zero_point", "w_quantized", "b0", "b", "b_quantized", "x", "x_scale", "r_zero_point", "x_QuantizeLinear"),
    *("x_QuantizeLinear_Output", "x_DequantizeLinear_Output", "conv2d", "add", "relu", "val_0", "val_1", "weight", "a", "a.weight", "a.a"),
    *("forward", "class", "self", "0", "1.weight", "a/b", "output", "input", "constant", "linear", "onnx::Conv_1", "model.weight_half"),
    *("h_quant_scales_mul:0", "b_add_bias", "y_computed", "train", "training", "/a/Constant_output_0", "w_transposed", "é", "a b", "None"),
)
"""Names that exporters, quantizers and this project's own passes make up, and those that Python or a module would trip over."""


class Unfit(Exception):
    """The operator does not fit here: the drawing goes on with another one."""


class Sketch:
    """Nodes, constants, and the arrays that every value has for one batch."""

    def __init__(self, rng: Random, opset: int, *, keeps_zero: bool = False) -> None:
        self.rng = rng
        self.opset = opset
        self.keeps_zero = keeps_zero
        """Whether layers may have no other bias than their own, and groups of one channel or of all."""
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.inputs: dict[str, Array] = {}
        self.arrays: dict[str, Array] = {}
        self.pool: list[str] = []
        """Values that flow, examples first."""
        self.is_rough = False
        """Whether a tiny difference may become a large one: rounding, comparing, choosing."""
        self.is_fixed = False
        """Whether the graph has no trainable form: what it runs depends on the data."""
        self._values = np.random.default_rng(rng.randrange(2**32))

    def name(self, hint: str) -> str:
        """A name that is not taken, often a nasty one."""
        taken = {*self.arrays, *self.constants}
        if self.rng.random() < 0.4:
            free = [name for name in NASTY if name not in taken]
            if free:
                return self.rng.choice(free)
        return next(name for index in range(10_000) if (name := f"{hint}{index or ''}") not in taken)

    def constant(self, array: Any, hint: str = "w") -> str:
        """A stored tensor."""
        name = self.name(hint)
        self.constants[name] = np.asarray(array)
        return name

    def normal(self, *shape: int, scale: float = 1.0) -> Array:
        """Random numbers."""
        return (self._values.standard_normal(shape) * scale).astype(np.float32)

    def weight(self, *shape: int, hint: str = "w") -> str:
        """A weight that keeps the size of what it multiplies."""
        return self.constant(self.normal(*shape, scale=1 / max(1.0, np.sqrt(np.prod(shape[1:])))), hint)

    def ints(self, *values: int) -> str:
        """Sizes or axes as a stored tensor."""
        return self.constant(np.array(values, np.int64), "shape")

    def number(self, value: float) -> str:
        """A stored number."""
        return self.constant(np.array(value, np.float32), "k")

    def node(self, kind: str, inputs: Sequence[str], count: int = 1, **attributes: Any) -> list[str]:
        """Add an operator and run it. Raises `Unfit` where the runtime refuses it, or where its values grow too large."""
        outputs: list[str] = []
        for _ in range(count):
            outputs.append(self.name(kind.lower()))
            self.arrays[outputs[-1]] = np.zeros(0)
        proto = helper.make_node(kind, list(inputs), outputs, name=self._node_name(kind), **attributes)
        needed = {*inputs, *outer_names(proto)} - {""}
        feed = {name: self.arrays[name] for name in needed if name in self.arrays}
        stored = {name: self.constants[name] for name in needed if name in self.constants}
        try:
            results = run(assemble([proto], feed, outputs, stored, self.opset), feed)
        except Exception as error:
            raise Unfit(str(error)) from None
        for name, array in zip(outputs, results, strict=True):
            if array.size == 0 or not np.isfinite(array).all() or np.abs(array.astype(np.float64)).max() > _LARGEST:
                raise Unfit(f"{kind} gives {array.shape}")
            if array.dtype == np.float32 and array.size > 1 and float(np.ptp(array)) < 1e-3:
                raise Unfit(f"{kind} gives one number only")
            self.arrays[name] = array
        self.nodes.append(proto)
        return outputs

    def flows(self, *names: str) -> None:
        """Values that may be read further on: those that still have the examples first."""
        if any(self.arrays[name].ndim == 0 or self.arrays[name].shape[0] != BATCH for name in names):
            raise Unfit("the examples do not come first")
        self.pool.extend(names)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """All or nothing of a block."""
        before = (len(self.nodes), dict(self.constants), dict(self.arrays), list(self.pool), self.is_rough, self.is_fixed)
        try:
            yield
        except Unfit:
            count, self.constants, self.arrays, self.pool, self.is_rough, self.is_fixed = before
            del self.nodes[count:]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a value, the batch first."""
        return (self.arrays[name] if name in self.arrays else self.constants[name]).shape

    def _node_name(self, kind: str) -> str:
        taken = {node.name for node in self.nodes}
        free = [name for name in (kind, f"/{kind.lower()}/{kind}", *self.rng.sample(NASTY, 4)) if name not in taken]
        return self.rng.choice(["", *free])


def assemble(
    nodes: Sequence[onnx.NodeProto],
    feed: dict[str, Array],
    outputs: Sequence[str],
    constants: dict[str, Array],
    opset: int,
    batch: Any = None,
) -> onnx.ModelProto:
    """A model whose inputs have the shapes of `feed`, with `batch` in the first place where it is given."""
    infos = [
        helper.make_tensor_value_info(
            name,
            helper.np_dtype_to_tensor_dtype(array.dtype),
            [batch if batch is not None and i == 0 else s for i, s in enumerate(array.shape)],
        )
        for name, array in feed.items()
    ]
    graph = helper.make_graph(
        list(nodes),
        "drawn",
        infos,
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in outputs],
        [numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name) for name, array in constants.items()],
    )
    for item in graph.output:
        item.ClearField("type")
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(proto: onnx.ModelProto, feed: dict[str, Array], *, optimize: bool = True) -> list[Array]:
    """Outputs of stock ONNX Runtime."""
    session = ort.InferenceSession(proto.SerializeToString(), _options(optimize), providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(None, feed)
    return found


@functools.cache
def _options(optimize: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def outer_names(node: onnx.NodeProto) -> set[str]:
    """What the subgraphs of a node read from around it."""
    found: set[str] = set()
    for attribute in node.attribute:
        if attribute.HasField("g"):
            own = {item.name for item in (*attribute.g.input, *attribute.g.initializer)}
            for inner in attribute.g.node:
                found |= {name for name in (*inner.input, *outer_names(inner)) if name not in own}
                own |= set(inner.output)
    return found
