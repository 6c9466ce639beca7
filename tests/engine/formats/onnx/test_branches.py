"""Subgraphs: the branch that a constant condition chooses is rebuilt; what the data decide has no trainable form."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.contract.errors import EngineError
from engine.formats.onnx.importer.rebuild import build_module
from tests.engine.formats.onnx.graphs import BATCH, Array, assert_same, ints, model, node, normal, scalar

X = {"x": [BATCH, 4]}


def branch(
    nodes: list[onnx.NodeProto], output: str, weights: dict[str, Array] | None = None, inputs: tuple[str, ...] = ()
) -> onnx.GraphProto:
    kinds = {"step": TensorProto.INT64, "go": TensorProto.BOOL}
    given = [helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), None) for name in inputs]
    stored = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    return helper.make_graph(nodes, "b", given, [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)], stored)


def choice(condition: str, output: str, seed: int) -> onnx.NodeProto:
    """Both branches, and every such choice, call their weight the same."""
    graphs = [branch([node("MatMul", ["x", "w"], [f"z{k}"])], f"z{k}", {"w": normal(4, 4, seed=seed + k)}) for k in (0, 1)]
    return node("If", [condition], [output], then_branch=graphs[0], else_branch=graphs[1])


@pytest.mark.parametrize("condition", [True, False])
def test_the_branch_of_a_constant_condition_is_rebuilt_and_trains(condition: bool) -> None:
    nodes = [choice("c", "first", 1), choice("d", "second", 5), node("Add", ["first", "second"], ["y"])]
    module = assert_same(model(nodes, X, ["y"], {"c": np.array(condition), "d": np.array([not condition])}), {"x": normal(3, 4)})
    assert sorted(parameter.shape for parameter in module.parameters()) == [(4, 4), (4, 4)]
    assert len({id(parameter) for parameter in module.parameters()}) == 2


def test_a_condition_on_shapes_is_decided() -> None:
    """What torch's older exporter writes for a squeeze: an If on the size of a dimension."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "last"], ["size"]),
        node("Equal", ["size", "one"], ["single"]),
        node(
            "If",
            ["single"],
            ["y"],
            then_branch=branch([node("Neg", ["x"], ["s"])], "s"),
            else_branch=branch([node("Identity", ["x"], ["i"])], "i"),
        ),
    ]
    constants = {"last": ints(1), "one": ints(1)}
    for width in (1, 4):
        assert_same(model(nodes, {"x": [BATCH, width]}, ["y"], constants), {"x": normal(3, width)})


def test_a_condition_that_only_the_imagined_sizes_agree_on_is_refused() -> None:
    """An even length and an odd one take other branches, whichever lengths are imagined."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "last"], ["size"]),
        node("Mod", ["size", "two"], ["rest"]),
        node("Equal", ["rest", "one"], ["odd"]),
        node(
            "If",
            ["odd"],
            ["y"],
            then_branch=branch([node("Neg", ["x"], ["s"])], "s"),
            else_branch=branch([node("Identity", ["x"], ["i"])], "i"),
        ),
    ]
    constants = {"last": ints(1), "one": ints(1), "two": ints(2)}
    assert_same(model(nodes, {"x": [BATCH, 4]}, ["y"], constants), {"x": normal(3, 4)})
    with pytest.raises(EngineError) as refused:
        build_module(model(nodes, {"x": [BATCH, "length"]}, ["y"], constants))
    assert refused.value.code == "unsupported_operator"
    assert "input_specs" in (refused.value.hint or "")


def test_a_branch_may_hold_a_branch() -> None:
    inner = node(
        "If", ["d"], ["v"], then_branch=branch([node("Relu", ["h"], ["r"])], "r"), else_branch=branch([node("Neg", ["h"], ["n"])], "n")
    )
    outer = node("If", ["c"], ["u"], then_branch=branch([inner], "v"), else_branch=branch([node("Identity", ["h"], ["i"])], "i"))
    nodes = [node("MatMul", ["x", "w"], ["h"]), outer, node("Add", ["u", "b"], ["y"])]
    for condition in (True, False):
        constants = {"w": normal(4, 4), "b": normal(4), "c": np.array(condition), "d": np.array(condition)}
        assert_same(model(nodes, X, ["y"], constants), {"x": normal(3, 4)})


def test_what_a_branch_reads_is_left_as_it_is() -> None:
    """An Add behind a layer becomes its bias only where no branch reads the layer's own output."""
    reads = branch([node("Neg", ["h"], ["n"])], "n")
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Add", ["h", "b"], ["s"]),
        node("If", ["c"], ["u"], then_branch=reads, else_branch=reads),
    ]
    nodes.append(node("Add", ["s", "u"], ["y"]))
    assert_same(model(nodes, X, ["y"], {"w": normal(4, 4), "b": normal(4), "c": np.array(True)}), {"x": normal(3, 4)})


def test_what_the_data_decide_is_refused_by_name() -> None:
    nodes = [node("ReduceSum", ["x"], ["s"], keepdims=0), node("Greater", ["s", "k"], ["c"]), choice("c", "y", 1)]
    with pytest.raises(EngineError, match="control flow depends on the data") as caught:
        build_module(model(nodes, X, ["y"], {"k": scalar(0.0)}))
    assert caught.value.code == "unsupported_operator"


def test_two_branches_may_call_a_constant_of_their_own_the_same() -> None:
    nodes = []
    for k, output in enumerate(("first", "second")):
        held = [
            helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(normal(4, 4, seed=k))),
            node("MatMul", ["x", "w"], ["z"]),
        ]
        nodes.append(node("If", ["c"], [output], then_branch=branch(held, "z"), else_branch=branch(held, "z")))
    nodes.append(node("Add", ["first", "second"], ["y"]))
    module = assert_same(model(nodes, X, ["y"], {"c": np.array(True)}), {"x": normal(3, 4)})
    assert len(list(module.parameters())) == 2


def test_a_layer_that_is_read_under_another_name_as_well_takes_no_bias() -> None:
    """An Identity leaves no trace, so that its output is the layer's own."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Identity", ["h"], ["same"]),
        node("Add", ["same", "b"], ["s"]),
        node("Relu", ["h"], ["r"]),
        node("Add", ["s", "r"], ["y"]),
    ]
    assert_same(model(nodes, X, ["y"], {"w": normal(4, 4), "b": normal(4)}), {"x": normal(3, 4)})
