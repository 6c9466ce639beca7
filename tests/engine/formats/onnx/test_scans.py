"""Scan over sequences of a known length is rebuilt place by place."""

import numpy as np
import onnx
import pytest

from engine.contract.errors import EngineError
from engine.formats.onnx.importer.rebuild import build_module
from tests.engine.formats.onnx.bodies import body
from tests.engine.formats.onnx.graphs import BATCH, assert_same, model, node, normal

STEPS, WIDTH = 5, 4
CELL = [
    node("MatMul", ["x_t", "w"], ["xw"]),
    node("Add", ["xw", "b"], ["xb"]),
    node("MatMul", ["h", "u"], ["hu"]),
    node("Add", ["xb", "hu"], ["a"]),
    node("Tanh", ["a"], ["h_out"]),
    node("Neg", ["h_out"], ["step"]),
]
WEIGHTS = {"w": normal(WIDTH, WIDTH, seed=1), "u": 0.5 * normal(WIDTH, WIDTH, seed=2), "b": normal(WIDTH, seed=3)}
CELL_BODY = body(CELL, ["h", "x_t"], ["h_out", "step"])


def scan(
    inside: onnx.GraphProto = CELL_BODY, given: tuple[str, ...] = ("h0", "x"), made: tuple[str, ...] = ("y", "all"), **how: object
) -> onnx.NodeProto:
    return node("Scan", given, made, body=inside, **{"num_scan_inputs": 1, **how})


@pytest.mark.parametrize("opset", [9, 11, 18])
@pytest.mark.parametrize("backward", [0, 1])
@pytest.mark.parametrize("axis", [1, -2])
def test_a_sequence_is_read_along_any_axis_in_either_direction(opset: int, backward: int, axis: int) -> None:
    if opset == 9 and axis < 0:
        return  # negative axes came with opset 11
    how = {
        "scan_input_axes": [axis],
        "scan_input_directions": [backward],
        "scan_output_axes": [axis],
        "scan_output_directions": [1 - backward],
    }
    proto = model([scan(**how)], {"h0": [BATCH, WIDTH], "x": [BATCH, STEPS, WIDTH]}, ["y", "all"], WEIGHTS, opset=opset)
    module = assert_same(proto, {"h0": normal(3, WIDTH), "x": normal(3, STEPS, WIDTH)})
    assert sum(item.numel() for item in module.parameters()) == sum(item.size for item in WEIGHTS.values())


def test_two_sequences_and_no_state() -> None:
    inside = body([node("Mul", ["a", "b"], ["c"]), node("Relu", ["c"], ["d"])], ["a", "b"], ["d"])
    how = {"num_scan_inputs": 2, "scan_input_axes": [1, 2], "scan_input_directions": [0, 1], "scan_output_axes": [-1]}
    proto = model([scan(inside, ("p", "q"), ("y",), **how)], {"p": [BATCH, STEPS, 3], "q": [BATCH, 3, STEPS]}, ["y"])
    assert_same(proto, {"p": normal(2, STEPS, 3), "q": normal(2, 3, STEPS)})


def test_stored_weights_may_be_the_sequence() -> None:
    """One matrix a layer, as networks of equal layers are written."""
    inside = body([node("MatMul", ["h", "w_t"], ["m"]), node("Tanh", ["m"], ["h_out"])], ["h", "w_t"], ["h_out"])
    proto = model([scan(inside, ("x", "ws"), ("y",))], {"x": [BATCH, WIDTH]}, ["y"], {"ws": normal(3, WIDTH, WIDTH)})
    module = assert_same(proto, {"x": normal(2, WIDTH)})
    assert sum(item.numel() for item in module.parameters()) == 3 * WIDTH * WIDTH


@pytest.mark.parametrize("shape", [[BATCH, "steps", WIDTH], ["n", STEPS, WIDTH]])
def test_a_length_that_the_file_leaves_open_is_refused(shape: list[str | int]) -> None:
    axis = 1 if shape[1] == "steps" else 0
    inside = body([node("Add", ["h", "x_t"], ["h_out"])], ["h", "x_t"], ["h_out"])
    nodes = [scan(inside, ("start", "x"), ("y",), scan_input_axes=[axis])]
    with pytest.raises(EngineError, match="a size that the file leaves open") as caught:
        build_module(model(nodes, {"x": shape}, ["y"], {"start": normal(WIDTH)}))
    assert caught.value.code == "unsupported_operator"
    assert caught.value.details["operator"] == "Scan"


def test_the_form_of_opset_8_and_what_does_not_fit_are_refused() -> None:
    eight = model([scan(given=("", "h0", "x"))], {"h0": [BATCH, WIDTH], "x": [BATCH, STEPS, WIDTH]}, ["y", "all"], WEIGHTS, opset=8)
    with pytest.raises(EngineError, match="opset 8") as caught:
        build_module(eight)
    assert caught.value.code == "unsupported_operator"
    for wrong in (scan(given=("x",)), scan(scan_input_axes=[0, 1]), scan(num_scan_inputs=0)):
        with pytest.raises(EngineError) as caught:
            build_module(model([wrong], {"h0": [BATCH, WIDTH], "x": [BATCH, STEPS, WIDTH]}, ["y"], WEIGHTS))
        assert caught.value.code == "model_invalid"


def test_numbers_may_be_the_sequence() -> None:
    inside = body([node("Add", ["h", "t"], ["h_out"]), node("Mul", ["h_out", "t"], ["step"])], ["h", "t"], ["h_out", "step"])
    proto = model([scan(inside, ("x", "times"))], {"x": [BATCH, WIDTH]}, ["y", "all"], {"times": np.arange(3, dtype=np.float32)})
    assert_same(proto, {"x": normal(2, WIDTH)})
