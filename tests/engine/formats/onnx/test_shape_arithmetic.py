"""Shapes that the graph computes: kept as arithmetic on the running sizes, or folded where they are the same for every input."""

import numpy as np
import pytest
from onnx import numpy_helper

from engine.contract.errors import EngineError
from engine.formats.onnx.importer.rebuild import build_module
from engine.formats.onnx.importer.reshape import groups, resolve
from tests.engine.formats.onnx.graphs import BATCH, assert_same, model, node, normal


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def scalar(value: int) -> np.ndarray:
    return np.array(value, dtype=np.int64)


NUMBERS = {"zero": ints(0), "one": ints(1), "two": ints(2), "three": ints(3), "twelve": ints(12), "minus": ints(-1), "b0": scalar(0)}
SIZE = [node("Shape", ["x"], ["shape"]), node("Gather", ["shape", "zero"], ["b"])]
FEEDS = [{"x": normal(batch, 3, 4)} for batch in (1, 2, 7)]


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Mul", ["b", "three"], ["n"]), node("Concat", ["n", "minus"], ["s"], axis=0), node("Reshape", ["x", "s"], ["y"])],
        [
            *[node("Mul", ["b", "three"], ["n"]), node("Div", ["n", "three"], ["m"]), node("Add", ["m", "two"], ["p"])],
            *[node("Sub", ["p", "two"], ["q"]), node("Concat", ["q", "twelve"], ["s"], axis=0), node("Reshape", ["x", "s"], ["y"])],
        ],
        [node("Min", ["b", "three"], ["n"]), node("Slice", ["x", "zero", "n", "zero"], ["y"])],
        [node("Max", ["b", "three"], ["n"]), node("Sub", ["n", "two"], ["m"]), node("Slice", ["x", "zero", "m", "one"], ["y"])],
        [node("Neg", ["b"], ["n"]), node("Mod", ["b", "two"], ["p"]), node("Sub", ["p", "n"], ["m"]), node("Slice", ["x", "zero", "m", "zero"], ["y"])],
        [node("Squeeze", ["b", "zero"], ["n"]), node("Unsqueeze", ["n", "zero"], ["m"]), node("Concat", ["m", "twelve"], ["s"], axis=0), node("Reshape", ["x", "s"], ["y"])],
        [node("ReduceProd", ["shape"], ["n"], keepdims=1), node("Reshape", ["x", "n"], ["y"])],
        [node("Size", ["x"], ["n"]), node("Unsqueeze", ["n", "zero"], ["m"]), node("Reshape", ["x", "m"], ["y"])],
        [node("Concat", ["b", "two"], ["s"], axis=0), node("ConstantOfShape", ["s"], ["f"], value=numpy_helper.from_array(np.array([2.5], np.float32))), node("ReduceSum", ["x", "two"], ["r"], keepdims=0), node("Concat", ["r", "f"], ["y"], axis=1)],
        [node("Squeeze", ["b", "zero"], ["n"]), node("Range", ["b0", "n", "one0"], ["r"]), node("Cast", ["r"], ["f"], to=1), node("Unsqueeze", ["f", "onetwo"], ["g"]), node("Mul", ["x", "g"], ["y"])],
        [node("Concat", ["b", "one", "one"], ["t"], axis=0), node("Tile", ["row", "t"], ["e"]), node("Add", ["x", "e"], ["y"])],
        [node("Cast", ["b"], ["f"], to=1), node("Sqrt", ["f"], ["r"]), node("Mul", ["x", "r"], ["y"])],
        [node("Cast", ["shape"], ["f"], to=1), node("ReduceSum", ["f"], ["r"], keepdims=0), node("Div", ["x", "r"], ["y"])],
        [
            *[node("Concat", ["b", "minus", "minus"], ["s"], axis=0), node("Shape", ["s"], ["l"]), node("ConstantOfShape", ["l"], ["ones"], value=numpy_helper.from_array(ints(1)))],
            *[node("Mul", ["ones", "minus"], ["neg"]), node("Equal", ["s", "neg"], ["open"]), node("Where", ["open", "ones", "s"], ["e"])],
            *[node("Expand", ["row", "e"], ["r"]), node("Add", ["x", "r"], ["y"])],
        ],
        [node("Greater", ["b", "two"], ["many"]), node("Cast", ["many"], ["f"], to=1), node("Add", ["x", "f"], ["y"])],
        [node("Equal", ["b", "one"], ["single"]), node("Cast", ["single"], ["f"], to=1), node("Add", ["x", "f"], ["y"])],
        [node("Equal", ["b", "b"], ["same"]), node("Where", ["same", "x", "x"], ["y"])],
    ],
    ids=["merge", "there-and-back", "min", "max", "mod", "squeeze", "prod", "size", "fill", "range", "tile", "sqrt", "sum", "expand", "greater", "equal", "itself"],
)  # fmt: skip
def test_arithmetic_follows_the_running_batch(nodes: list) -> None:
    constants = {**NUMBERS, "one0": scalar(1), "onetwo": ints(1, 2), "row": normal(1, 3, 4)}
    assert_same(model([*SIZE, *nodes], {"x": [BATCH, 3, 4]}, ["y"], constants), *FEEDS)


def test_what_is_the_same_for_every_input_leaves_no_trace() -> None:
    nodes = [
        node("Shape", ["x"], ["shape"], start=1),
        node("ReduceProd", ["shape"], ["n"], keepdims=1),
        node("Concat", ["minus", "n"], ["s"], axis=0),
        node("Reshape", ["x", "s"], ["y"]),
    ]
    module = assert_same(model(nodes, {"x": [BATCH, 3, 4]}, ["y"], NUMBERS), *FEEDS)
    assert [item.op for item in module.graph.nodes] == ["placeholder", "call_module", "output"]


@pytest.mark.parametrize("allowzero", [0, 1])
def test_zeros_of_a_reshape_copy_a_size(allowzero: int) -> None:
    sizes = ints(0, 4, 3) if not allowzero else ints(-1, 4, 3)
    assert_same(model([node("Reshape", ["x", "s"], ["y"], allowzero=allowzero)], {"x": [BATCH, 3, 4]}, ["y"], {"s": sizes}), *FEEDS)


@pytest.mark.parametrize(
    ("shape", "target"),
    [
        ((3, 4), (-1, 12)),
        ((12,), (-1, 3, 4)),
        ((12,), (-1, 2, 2, 3)),
        ((3, 4), (-1, 4)),
        ((3, 4), (-1, 3, 2, 2)),
        ((4, 6), (-1, 3, 8)),
        ((1, 4), (-1, 4)),
        ((4,), (-1, 1, 4, 1)),
        ((2, 3, 4), (-1, 6, 4)),
        ((2, 3, 4), (-1, 2, 12)),
        ((2, 3), (6, -1)),
    ],
)
@pytest.mark.parametrize("fixed", [False, True])
def test_reshapes_do_not_bake_sizes_in(shape: tuple, target: tuple, fixed: bool) -> None:
    """With `fixed`, the file was written for a batch of two and says so in numbers only."""
    total = 2 * int(np.prod(shape))
    sizes = [size if size != -1 else total // -int(np.prod(target)) for size in target] if fixed else list(target)
    proto = model([node("Reshape", ["x", "s"], ["y"])], {"x": [2 if fixed else BATCH, *shape]}, ["y"], {"s": ints(*sizes)})
    module = assert_same(proto, {"x": normal(2, *shape)})
    if target[0] == -1:
        x = normal(6, *shape)
        import torch

        np.testing.assert_array_equal(module(torch.from_numpy(x)).numpy(), x.reshape(target))


def test_groups_are_the_finest_common_cut() -> None:
    before = resolve([(2, 3), (65, 65), (576, 576)], [-1, 65, 3, 3, 64], generalize=False)
    assert before == [(2, 3), (65, 65), (3, 3), (3, 3), (64, 64)]
    assert groups([(2, 3), (65, 65), (576, 576)], before) == [(range(1), range(1)), (range(1, 2), range(1, 2)), (range(2, 3), range(2, 5))]
    assert groups([(2, 3), (4, 4)], [(4, 4), (2, 3)]) == [(range(2), range(2))]
    assert groups([(2, 3), (1, 1), (5, 5)], [(2, 3), (5, 5)]) == [(range(1), range(1)), (range(1, 3), range(1, 2))]


def test_impossible_reshapes_are_the_models_fault() -> None:
    proto = model([node("Reshape", ["x", "s"], ["y"])], {"x": [BATCH, 3, 4]}, ["y"], {"s": ints(-1, 5)})
    with pytest.raises(EngineError) as caught:
        build_module(proto)
    assert caught.value.code == "model_invalid"


def test_shapes_that_depend_on_data_are_named() -> None:
    nodes = [
        node("Cast", ["x"], ["i"], to=7),
        node("ReduceMax", ["i"], ["m"], keepdims=0),
        node("Unsqueeze", ["m", "zero"], ["s"]),
        node("ConstantOfShape", ["s"], ["y"]),
    ]
    with pytest.raises(EngineError, match="depends on the data") as caught:
        build_module(model(nodes, {"x": [BATCH, 3]}, ["y"], NUMBERS))
    assert caught.value.code == "unsupported_operator"
