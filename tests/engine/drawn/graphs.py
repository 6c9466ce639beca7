"""Small graphs drawn at random: many operators, odd shapes, several inputs and outputs, clashing names, subgraphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import onnx

from tests.engine.drawn import elementwise, layers, moving
from tests.engine.drawn.sketch import BATCH, Array, Sketch, Unfit, assemble, outer_names, run

OPSETS = (7, 8, 9, 10, 11, 11, 12, 13, 13, 14, 15, 16, 17, 17, 18, 18, 19, 20, 21, 22, 23, 24, 25, 26)
Operator = Callable[[Sketch, str], None]
ANY: tuple[Operator, ...] = (
    elementwise.activation,
    elementwise.activation,
    elementwise.arithmetic,
    moving.reshape,
    moving.join,
    moving.cut,
)
ANY += (moving.stretch, moving.transpose, moving.reduce, moving.choose, moving.pad, elementwise.selected)
_IN_SEQUENCE = (layers.normalization, layers.batch_norm, moving.pool, moving.flatten, elementwise.branch, layers.transposed_convolution)
_IN_IMAGES = (layers.transposed_convolution, layers.batch_norm, layers.normalization, moving.pool, moving.flatten, moving.resize)
BY_RANK: dict[int, tuple[Operator, ...]] = {
    2: (*[layers.gemm] * 4, layers.product, layers.batch_norm, layers.normalization, elementwise.branch),
    3: (*[layers.product, layers.recurrent, layers.convolution] * 2, layers.product_from_the_left, layers.attention, *_IN_SEQUENCE),
    4: (*[layers.convolution] * 5, layers.product, moving.shuffle, moving.pool, elementwise.scaled_by_channel, *_IN_IMAGES),
    5: (layers.convolution, layers.batch_norm, moving.pool, moving.flatten, moving.flatten),
}
Choices = Mapping[int, Sequence[Operator]]
_ZERO = (elementwise.keeping_zero, elementwise.keeping_zero, moving.reshape, elementwise.added, moving.join, moving.cut)
KEEPING_ZERO: Choices = {
    2: (*[layers.gemm] * 4, layers.product, elementwise.keeping_zero, elementwise.added, moving.join),
    3: (*[layers.product, layers.convolution] * 3, moving.flatten, *_ZERO, moving.transpose),
    4: (*[layers.convolution] * 8, layers.transposed_convolution, moving.pool, moving.flatten, *_ZERO),
    5: (*[layers.convolution] * 3, moving.pool, moving.flatten, elementwise.keeping_zero),
}
"""Operators that make zeros of zeros, so that a channel that is silent stays silent up to the next layer."""
_SHAPES = [(3,), (5,), (8,), (1,), (4, 6), (2, 3), (5, 1), (3, 8, 8), (1, 7, 5), (4, 6, 6), (2, 1, 9), (2, 3, 4, 3)]


@dataclass(frozen=True)
class Drawn:
    """A drawn network and what is known about it."""

    model: onnx.ModelProto
    inputs: dict[str, tuple[tuple[int, ...], type]]
    """Shape of one example and type of each input."""
    is_rough: bool
    is_fixed: bool
    batch: int | None

    def feed(self, batch: int, seed: int) -> dict[str, Array]:
        """Random examples."""
        rng = np.random.default_rng(seed)
        return {name: _examples(rng, batch, shape, kind) for name, (shape, kind) in self.inputs.items()}


def draw(rng: Random, size: int = 10, *, choices: Choices | None = None) -> Drawn | None:
    """A network of about `size` operators, or None where what was drawn mixes examples of a batch.

    `choices` are operators that keep zeros, for values of each rank; None stands for all there are.
    """
    sketch = Sketch(rng, rng.choice(OPSETS), keeps_zero=choices is not None)
    values = np.random.default_rng(rng.randrange(2**32))
    for shape in rng.sample(_SHAPES, rng.choice([1, 1, 1, 2])):
        _input(sketch, values, shape, np.float32)
    if rng.random() < 0.2:
        _input(sketch, values, (rng.choice([1, 4]),), np.int64)
    for _ in range(4 * size):
        if len(sketch.nodes) >= size:
            break
        wide = [name for name in sketch.pool if sketch.arrays[name].ndim > 1]
        x = wide[-1] if rng.random() < 0.6 else rng.choice(wide)
        with sketch.attempt():
            _operator(sketch, x, choices)(sketch, x)
    return _finished(sketch, rng)


def _operator(sketch: Sketch, x: str, choices: Choices | None) -> Operator:
    if sketch.arrays[x].dtype != np.float32:
        return layers.embedding
    rank = sketch.arrays[x].ndim
    if choices is not None:
        return sketch.rng.choice(choices.get(rank, choices[2]))
    weighted = BY_RANK.get(rank, ())
    if sketch.rng.random() < 0.5 or not weighted:
        return sketch.rng.choice(ANY)
    return sketch.rng.choice(weighted)


def _input(sketch: Sketch, values: np.random.Generator, shape: tuple[int, ...], kind: type) -> None:
    name = sketch.name("in")
    sketch.inputs[name] = sketch.arrays[name] = _examples(values, BATCH, shape, kind)
    sketch.pool.append(name)


def _examples(rng: np.random.Generator, batch: int, shape: tuple[int, ...], kind: type) -> Array:
    if kind is np.int64:
        return rng.integers(0, 7, (batch, *shape))
    return rng.standard_normal((batch, *shape)).astype(np.float32)


def _finished(sketch: Sketch, rng: Random) -> Drawn | None:
    made = [name for name in sketch.pool if name not in sketch.inputs]
    read = {name for node in sketch.nodes for name in node.input}
    outputs = [name for name in made if name not in read][-3:]
    outputs += [name for name in made if name not in outputs and rng.random() < 0.15][:2]
    if not outputs:
        return None
    nodes, used = _needed(sketch, outputs)
    inputs = {name: array for name, array in sketch.inputs.items() if name in used}
    if not inputs or not nodes:
        return None
    fixed = rng.random() < 0.2
    constants = {name: array for name, array in sketch.constants.items() if name in used}
    model = assemble(nodes, inputs, outputs, constants, sketch.opset, batch=BATCH if fixed else "batch")
    for item, name in zip(model.graph.output, outputs, strict=True):
        kind = onnx.helper.np_dtype_to_tensor_dtype(sketch.arrays[name].dtype)
        shape = [None if index == 0 else size for index, size in enumerate(sketch.arrays[name].shape)]
        item.CopyFrom(onnx.helper.make_tensor_value_info(name, kind, shape))
    drawn = Drawn(
        model,
        {name: (array.shape[1:], array.dtype.type) for name, array in inputs.items()},
        sketch.is_rough,
        sketch.is_fixed,
        BATCH if fixed else None,
    )
    return drawn if _examples_stay_apart(drawn) else None


def _needed(sketch: Sketch, outputs: list[str]) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that lead to the outputs, and every name that they read."""
    used, kept = set(outputs), []
    for node in reversed(sketch.nodes):
        if used & set(node.output):
            kept.append(node)
            used |= set(node.input) | outer_names(node)
    return kept[::-1], used


def _examples_stay_apart(drawn: Drawn) -> bool:
    """Whether each example of a batch is computed by itself: batches are what the engine and its users take apart."""
    feed = drawn.feed(BATCH, 1)
    try:
        together = run(drawn.model, feed)
        turned = run(drawn.model, {name: array[::-1].copy() for name, array in feed.items()})
        alone = together if drawn.batch else run(drawn.model, {name: array[:1] for name, array in feed.items()})
    except Exception as error:
        raise Unfit(f"the whole graph does not run: {error}") from None
    for a, b, c in zip(together, turned, alone, strict=True):
        if not all(np.isfinite(item).all() for item in (a, b, c)) or a.shape[0] != BATCH:
            return False
        if not np.allclose(a, b[::-1], atol=1e-3, rtol=1e-3) or (not drawn.batch and not np.allclose(a[:1], c, atol=1e-3, rtol=1e-3)):
            return False
    return True
