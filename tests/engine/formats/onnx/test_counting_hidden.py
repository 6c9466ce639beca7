"""Weights that stand where nobody looks: behind other operators, inside of If and Loop, folded, quantized; and what is no weight."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime.quantization as ort_quantization
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.formats.onnx.counting import count_graph, count_onnx
from engine.formats.onnx.macs import node_macs
from engine.formats.onnx.weights import weight_tensors
from tests.engine.formats.onnx.elements import elements
from tests.engine.formats.onnx.exporting import export
from tests.engine.formats.onnx.graphs import BATCH, ints, model, node, normal, scalar
from tests.engine.formats.onnx.networks import CASES


def graph(name: str, nodes: list[onnx.NodeProto], inputs: list[str], outputs: list[str], weights: dict[str, np.ndarray]) -> onnx.GraphProto:
    """A subgraph; a loop's counter and condition are scalars."""
    kinds = {"step": TensorProto.INT64, "go": TensorProto.BOOL, "still": TensorProto.BOOL}
    ins, outs = (
        [helper.make_tensor_value_info(item, kinds.get(item, TensorProto.FLOAT), [] if item in kinds else None) for item in side]
        for side in (inputs, outputs)
    )
    return helper.make_graph(nodes, name, ins, outs, [numpy_helper.from_array(array, item) for item, array in weights.items()])


def branch(name: str, width: int, out: str) -> onnx.GraphProto:
    """Two products through a hidden width; both branches call their weights the same."""
    nodes = [node("MatMul", ["x", "w"], [f"h_{name}"]), node("MatMul", [f"h_{name}", "v"], [out])]
    return graph(name, nodes, [], [out], {"w": normal(4, width), "v": normal(width, 3)})


def conditional(widths: tuple[int, int], condition: np.ndarray | None) -> onnx.ModelProto:
    branches = {"then_branch": branch("then", widths[0], "t"), "else_branch": branch("else", widths[1], "e")}
    nodes = [node("If", ["c"], ["y"], **branches)]
    if condition is not None:
        return model(nodes, {"x": [BATCH, 4]}, ["y"], {"c": condition})
    summed = [node("ReduceSum", ["x"], ["s"], keepdims=0), node("Greater", ["s", "zero"], ["c"])]
    return model([*summed, *nodes], {"x": [BATCH, 4]}, ["y"], {"zero": scalar(0.0)})


@pytest.mark.parametrize(
    ("condition", "widths", "macs"), [(True, (5, 6), 35), (False, (5, 6), 42), (None, (5, 6), None), (None, (5, 5), 35)]
)
def test_both_branches_are_stored_and_one_of_them_runs(condition: bool | None, widths: tuple[int, int], macs: int | None) -> None:
    proto = conditional(widths, None if condition is None else np.array(condition))
    counts = count_graph(proto)
    assert counts.params_count == counts.nonzero_params_count == 7 * sum(widths) == elements(proto)
    assert counts.macs_count == macs


@pytest.mark.parametrize(("trips", "condition", "macs"), [(3, "go", 3 * 16), (3, "below", None), (None, "go", None)])
def test_a_loop_multiplies_once_a_turn(trips: int | None, condition: str, macs: int | None) -> None:
    """The body goes on for ever, or ends where its data say so; the outer weight and the inner one both count."""
    body_nodes = [node("MatMul", ["x", "w"], ["p"]), node("Add", ["p", "h"], ["q"]), node("Add", ["q", "b"], ["r"])]
    stop = [node("ReduceSum", ["r"], ["total"], keepdims=0), node("Less", ["total", "limit"], ["below"])]
    still = [node("Identity", [condition], ["still"])]
    body = graph("body", [*body_nodes, *stop, *still], ["step", "go", "h"], ["still", "r"], {"w": normal(4, 4), "limit": scalar(1e6)})
    count = node("Constant", [], ["n"], value=numpy_helper.from_array(np.array(trips or 2)))
    nodes = [count, node("Loop", ["n" if trips else "given", "", "x"], ["y"], body=body)]
    inputs = {"x": [BATCH, 4], **({} if trips else {"given": []})}
    proto = model(nodes, inputs, ["y"], {"b": normal(4)}, types={"given": "i"})
    counts = count_graph(proto)
    assert (counts.params_count, counts.macs_count) == (20, macs)
    assert elements(proto) == 20


def test_what_a_loop_starts_with_is_a_weight_unless_it_is_zero() -> None:
    def looped(start: np.ndarray) -> onnx.ModelProto:
        nodes = [node("MatMul", ["x", "w"], ["p"]), node("Add", ["p", "h"], ["r"]), node("Identity", ["go"], ["still"])]
        body = graph("body", nodes, ["step", "go", "h"], ["still", "r"], {"w": normal(4, 4)})
        return model([node("Loop", ["n", "", "start"], ["y"], body=body)], {"x": [1, 4]}, ["y"], {"n": np.array(2), "start": start})

    assert count_graph(looped(normal(1, 4))).params_count == 20
    assert count_graph(looped(np.zeros((1, 4), np.float32))).params_count == 16


def test_a_scan_multiplies_once_an_element() -> None:
    nodes = [node("MatMul", ["f", "w"], ["p"]), node("Add", ["p", "h"], ["r"]), node("Identity", ["r"], ["o"])]
    body = graph("body", nodes, ["h", "f"], ["r", "o"], {"w": normal(3, 5)})
    scan = node("Scan", ["start", "x"], ["last", "y"], body=body, num_scan_inputs=1, scan_input_axes=[0])
    proto = model([scan], {"x": [7, 2, 3]}, ["y"], {"start": np.zeros((2, 5), np.float32)})
    assert count_graph(proto) == count_graph(proto).__class__(15, 15, 7 * 2 * 15 // 7)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_weights_behind_slices_and_concatenations(kind: str) -> None:
    """Torch's current exporter stores each gate as torch has it, and brings them into ONNX's order in the graph."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    nodes = [
        node("Slice", ["ih", "zero", "two"], ["first"]),
        node("Slice", ["ih", "two", "end"], ["rest"]),
        node("Concat", ["rest", "first"], ["swapped"], axis=0),
        node("Unsqueeze", ["swapped", "zero"], ["W"]),
        node("Unsqueeze", ["hh", "zero"], ["R"]),
        node("Concat", ["bi", "bh"], ["both"], axis=0),
        node("Unsqueeze", ["both", "zero"], ["B"]),
        node(kind, ["x", "W", "R", "B"], ["y"], hidden_size=5),
    ]
    rows = 5 * gates
    constants = {"ih": normal(rows, 3), "hh": normal(rows, 5), "bi": normal(rows), "bh": normal(rows, seed=1)}
    numbers = {"zero": ints(0), "two": ints(2), "end": ints(1000)}
    proto = model(nodes, {"x": [6, 1, 3]}, ["y"], {**constants, **numbers})
    counts = count_graph(proto)
    assert counts.params_count == rows * (3 + 5 + 2) == elements(proto)
    assert node_macs(proto) == {"y": rows * (3 + 5)}, "one of six steps is a share of the batch that the file fixes"


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("name", ["lstm", "token_mlp", "vit", "tied_lm"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_dynamic_quantization_changes_no_count(name: str, per_channel: bool, tmp_path: Path) -> None:
    source, target = export(CASES[name].network(), CASES[name], tmp_path / "m.onnx", exporter="legacy"), tmp_path / "q.onnx"
    ort_quantization.quantize_dynamic(
        source, target, per_channel=per_channel, op_types_to_quantize=["MatMul", "LSTM", "Gather", "Attention"]
    )
    before, after = count_onnx(source), count_onnx(target)
    assert (after.params_count, after.macs_count) == (before.params_count, before.macs_count)


def test_folded_tables_and_steps_count_whatever_they_are_called() -> None:
    """An exporter that looks up a constant position stores the rows under a name of its own."""
    nodes = [node("Gather", ["table", "x"], ["e"]), node("Add", ["e", "/embed/Gather_output_0"], ["s"]), node("Mul", ["s", "val_7"], ["y"])]
    constants = {"table": normal(9, 4), "/embed/Gather_output_0": normal(1, 3, 4), "val_7": normal(4)}
    proto = model(nodes, {"x": [BATCH, 3]}, ["y"], constants, types={"x": "i"})
    assert count_graph(proto).params_count == 36 + 12 + 4 == elements(proto)


def test_settings_are_no_weights() -> None:
    """Masks, running statistics, factors of a Resize, bounds and single numbers."""
    hidden = np.where(np.tri(4, dtype=bool), 0.0, -1e9).astype(np.float32)
    endless = np.where(np.tri(4, dtype=bool), 0.0, -np.inf).astype(np.float32)
    nodes = [
        node("Add", ["x", "hidden"], ["a"]),
        node("Add", ["a", "endless"], ["b"]),
        node("BatchNormalization", ["b", "s", "o", "m", "v"], ["n"]),
        node("Resize", ["n", "", "factors"], ["r"], mode="nearest"),
        node("Mul", ["r", "half"], ["h"]),
        node("Clip", ["h", "low", "high"], ["y"]),
    ]
    constants = {"hidden": hidden, "endless": endless, **{key: np.abs(normal(2, seed=ord(key))) for key in "somv"}}
    numbers = {"factors": np.array([1, 1, 2, 2], np.float32), "half": scalar(0.5), "low": scalar(0.0), "high": scalar(6.0)}
    assert set(weight_tensors(model(nodes, {"x": [BATCH, 2, 4, 4]}, ["y"], {**constants, **numbers}))) == {"s", "o"}


def test_products_of_unknown_size_are_not_counted_as_none() -> None:
    nodes = [
        node("NonZero", ["x"], ["i"]),
        node("Cast", ["i"], ["f"], to=1),
        node("Transpose", ["f"], ["t"]),
        node("MatMul", ["t", "w"], ["y"]),
    ]
    proto = model(nodes, {"x": [1, 4]}, ["y"], {"w": normal(2, 3)})
    assert node_macs(proto).keys() == {"y"}
    unknown = model(
        [node("FusedMatMulActivation", ["x", "w"], ["y"], domain="com.microsoft")],
        {"x": [1, 4]},
        ["y"],
        {"w": normal(4, 3)},
        domain="com.microsoft",
    )
    assert count_graph(unknown).macs_count is None
    assert count_graph(unknown).params_count == 12


def test_packed_weights_of_an_unknown_form_have_no_count() -> None:
    bnb4 = node("MatMulBnb4", ["x", "packed", "absmax"], ["y"], K=16, N=4, block_size=16, quant_type=1, domain="com.microsoft")
    packed = {"packed": np.arange(32, dtype=np.uint8), "absmax": normal(4)}
    proto = model([bnb4], {"x": [1, 16]}, ["y"], packed, domain="com.microsoft")
    assert (count_graph(proto).params_count, count_graph(proto).macs_count) == (None, None)


def test_numbers_that_a_constant_node_lists_are_weights() -> None:
    listed = [node("Constant", [], ["b"], value_floats=[0.5, 0.0, -1.0])]
    proto = model(
        [*listed, node("MatMul", ["x", "w"], ["p"]), node("Add", ["p", "b"], ["y"])], {"x": [BATCH, 4]}, ["y"], {"w": normal(4, 3)}
    )
    counts = count_graph(proto)
    assert (counts.params_count, counts.nonzero_params_count) == (15, 14)


def test_peepholes_are_weights_quantized_or_not(tmp_path: Path) -> None:
    weights = {"w": normal(1, 20, 3), "r": normal(1, 20, 5), "b": normal(1, 40), "p": normal(1, 15)}
    layer = node("LSTM", ["xt", "w", "r", "b", "", "", "", "p"], ["y", "h"], hidden_size=5)
    proto = model([node("Transpose", ["x"], ["xt"], perm=[1, 0, 2]), layer], {"x": [BATCH, 4, 3]}, ["h"], weights)
    onnx.save(proto, tmp_path / "m.onnx")
    ort_quantization.quantize_dynamic(tmp_path / "m.onnx", tmp_path / "q.onnx")
    assert any(item.op_type == "DynamicQuantizeLSTM" for item in onnx.load(tmp_path / "q.onnx").graph.node)
    whole = 60 + 100 + 40 + 15
    assert count_onnx(tmp_path / "m.onnx").params_count == count_onnx(tmp_path / "q.onnx").params_count == whole


def test_recurrent_layers_whose_last_states_alone_are_read_all_count() -> None:
    """Their first output is left out, so that nothing but the second tells them apart."""
    weights = {name: normal(1, 20, size) for name, size in (("w", 3), ("r", 5), ("v", 3), ("s", 5))}
    layers = [node("LSTM", ["xt", *pair], ["", state], hidden_size=5) for pair, state in (("wr", "h"), ("vs", "g"))]
    proto = model(
        [node("Transpose", ["x"], ["xt"], perm=[1, 0, 2]), *layers, node("Add", ["h", "g"], ["y"])], {"x": [BATCH, 4, 3]}, ["y"], weights
    )
    counts = count_graph(proto)
    assert (counts.params_count, counts.macs_count) == (2 * 20 * (3 + 5), 2 * 4 * 20 * (3 + 5))
    assert all(weight.readers in (("h",), ("g",)) for weight in weight_tensors(proto).values())


def test_ones_and_zeros_of_a_normalization_that_is_scaled_behind_it_are_no_weights() -> None:
    """Group normalization of one channel a group, as exporters write it; alone, the same operator has two numbers a channel."""
    constants = {"one": np.ones(4, np.float32), "none": np.zeros(4, np.float32), "s": normal(4, 1), "b": normal(4, 1)}
    alone = [node("InstanceNormalization", ["x", "one", "none"], ["n"])]
    scaled = [*alone, node("Mul", ["n", "s"], ["m"]), node("Add", ["m", "b"], ["y"])]
    assert sum(weight.size or 0 for weight in weight_tensors(model(scaled, {"x": ["batch", 4, 6]}, ["y"], constants)).values()) == 8
    few = {name: constants[name] for name in ("one", "none")}
    assert sum(weight.size or 0 for weight in weight_tensors(model(alone, {"x": ["batch", 4, 6]}, ["n"], few)).values()) == 8
