"""Loops whose bodies run a known number of times are rebuilt time by time, with one parameter for each weight."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.formats.onnx.importer.rebuild import build_module
from tests.engine.formats.onnx.bodies import YES, body, loop
from tests.engine.formats.onnx.graphs import BATCH, I64, Array, assert_same, ints, model, node, normal, scalar

STEPS, WIDTH = 5, 4
X = {"x": [BATCH, STEPS, WIDTH]}
FEED = {"x": normal(3, STEPS, WIDTH)}
STATE = [node("ReduceSum", ["x", "time"], ["s"], keepdims=0), node("Mul", ["s", "tenth"], ["h0"])]
"""A first state of the batch's size."""
CELL = [
    node("Gather", ["x", "i"], ["x_t"], axis=1),
    node("MatMul", ["x_t", "w"], ["xw"]),
    node("Add", ["xw", "b"], ["xb"]),
    node("MatMul", ["h", "u"], ["hu"]),
    node("Add", ["xb", "hu"], ["a"]),
    node("Tanh", ["a"], ["h_out"]),
]
NUMBERS: dict[str, Array] = {"time": ints(1), "tenth": scalar(0.1), "count": np.array(STEPS, I64), "yes": np.array(True)}
WEIGHTS = {"w": normal(WIDTH, WIDTH, seed=1), "u": 0.5 * normal(WIDTH, WIDTH, seed=2), "b": normal(WIDTH, seed=3)}


@pytest.mark.parametrize("given", [["count", "yes"], ["count", ""]])
def test_states_are_carried_outputs_stacked_and_weights_are_one_parameter_each(given: list[str]) -> None:
    nodes = [*STATE, loop([*given, "h0"], ["y", "all"], [*CELL, node("Identity", ["h_out"], ["step"])], ["h"], ["h_out", "step"])]
    module = assert_same(model(nodes, X, ["y", "all"], NUMBERS | WEIGHTS), FEED)
    assert {tuple(item.shape) for item in module.parameters()} == {(WIDTH, WIDTH), (WIDTH,)}
    assert sum(item.numel() for item in module.parameters()) == sum(item.size for item in WEIGHTS.values())
    assert [name for name, _ in module.named_children()] == ["w", "u", "tanh"]


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("bias", [normal(WIDTH), np.zeros(WIDTH, np.float32)], ids=["bias", "zeros"])
def test_weights_stored_in_the_body_are_one_parameter_each(inside: bool, bias: Array) -> None:
    """As initializers and as Constant nodes."""
    weights = WEIGHTS | {"b": bias}
    nodes = list(CELL)
    if not inside:
        nodes = [helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value)) for name, value in weights.items()] + nodes
    cell = loop(["count", "yes", "h0"], ["y"], nodes, ["h"], ["h_out"], weights=weights if inside else None)
    module = assert_same(model([*STATE, cell], X, ["y"], NUMBERS), FEED)
    assert sum(item.numel() for item in module.parameters()) == sum(item.size for item in weights.values())


def test_two_loops_call_their_weights_the_same() -> None:
    cells = []
    for k, (start, end) in enumerate((("h0", "h1"), ("h1", "y"))):
        weights = {name: value + k for name, value in WEIGHTS.items() if name != "b"}
        constant = helper.make_node("Constant", [], ["b"], value=numpy_helper.from_array(WEIGHTS["b"] + k))
        cells.append(loop(["count", "yes", start], [end], [constant, *CELL], ["h"], ["h_out"], weights=weights))
    module = assert_same(model([*STATE, *cells], X, ["y"], NUMBERS), FEED)
    assert sum(item.numel() for item in module.parameters()) == 2 * sum(item.size for item in WEIGHTS.values())


def test_weights_that_are_taken_along_stay_one_parameter() -> None:
    """As Keras writes a layer: everything that the body reads is a state, and is handed on."""
    nodes = [node("Identity", [name], [f"{name}_out"]) for name in WEIGHTS]
    cell = loop(
        ["count", "yes", "h0", "kernel", "matrix", "bias"],
        ["h_last", "k", "m", "d"],
        [*CELL, *nodes],
        ["h", *WEIGHTS],
        ["h_out", *(f"{name}_out" for name in WEIGHTS)],
    )
    last = node("MatMul", ["h_last", "m"], ["y"])
    named = dict(zip(("kernel", "matrix", "bias"), WEIGHTS.values(), strict=True))
    module = assert_same(model([*STATE, cell, last], X, ["y"], NUMBERS | named), FEED)
    assert sum(item.numel() for item in module.parameters()) == sum(item.size for item in WEIGHTS.values())


def test_a_counter_and_a_condition_on_it_as_keras_writes_them() -> None:
    """No bound but the largest number, and a condition that compares a counter with the length."""
    cell = loop(
        ["most", "first", "zero", "h0"],
        ["time_last", "y", "all"],
        [
            node("Gather", ["steps", "time"], ["x_t"], axis=0),
            *CELL[1:],
            node("Add", ["time", "one"], ["time_out"]),
            node("Less", ["time_out", "length"], ["below"]),
            node("And", ["below", "yes"], ["go_on"]),
            node("Identity", ["h_out"], ["step"]),
        ],
        ["time", "h"],
        ["time_out", "h_out", "step"],
        kinds={"time": "i0", "time_out": "i0"},
        condition=None,
    )
    nodes = [
        node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]),
        node("Shape", ["steps"], ["shape"]),
        node("Gather", ["shape", "zero"], ["length"]),
        node("Less", ["zero", "length"], ["first"]),
        node("ReduceSum", ["x", "axis"], ["s"], keepdims=0),
        node("Mul", ["s", "tenth"], ["h0"]),
        cell,
    ]
    numbers = {
        "most": np.array(2**63 - 1, I64),
        "zero": np.array(0, I64),
        "one": np.array(1, I64),
        "yes": np.array(True),
        "axis": ints(1),
        "tenth": scalar(0.1),
    }
    assert_same(model(nodes, X, ["y", "all"], numbers | WEIGHTS), FEED)
    with pytest.raises(EngineError, match="a size that the file leaves open") as caught:
        build_module(model(nodes, {"x": [BATCH, "length", WIDTH]}, ["y"], numbers | WEIGHTS))
    assert caught.value.code == "unsupported_operator"


def test_scalars_and_rows_of_numbers_are_stacked() -> None:
    nodes = [
        node("Mul", ["i", "two"], ["twice"]),
        node("Cast", ["i"], ["real"], to=1),
        node("Mul", ["tenths", "real"], ["row"]),
        node("Mul", ["h", "real"], ["h_out"]),
    ]
    cell = loop(["count", "yes", "x"], ["y", "numbers", "rows"], nodes, ["h"], ["h_out", "twice", "row"], kinds={"twice": "i0"})
    last = [node("Cast", ["numbers"], ["n"], to=1), node("Add", ["rows", "y"], ["z"])]
    proto = model([cell, *last], {"x": [BATCH, STEPS, 3]}, ["z", "n"], NUMBERS | {"two": np.array(2, I64), "tenths": normal(3)})
    assert_same(proto, {"x": normal(2, STEPS, 3)})


@pytest.mark.parametrize("rank", [0, 1])
def test_the_number_and_the_condition_have_the_shape_that_the_body_states(rank: int) -> None:
    nodes = [node("Gather", ["x", "i"], ["x_t"], axis=1), node("ReduceSum", ["x_t", "time"], ["part"], keepdims=0)]
    nodes.append(node("Add", ["h", "part"], ["h_out"]))
    kinds = {"i": f"i{rank}", "go": f"b{rank}", "go_on": f"b{rank}"}
    first = node("ReduceSum", ["x", "both"], ["h0"], keepdims=0)
    nodes = nodes if rank else [node("Unsqueeze", ["i", "zero"], ["places"]), node("Gather", ["x", "places"], ["x_t"], axis=1), *nodes[1:]]
    cell = loop(["count", "yes", "h0"], ["y"], nodes, ["h"], ["h_out"], kinds=kinds)
    proto = model(
        [first, cell], X, ["y"], NUMBERS | {"both": ints(1, 2), "time": ints(1, 2), "zero": ints(0), "yes": np.full([1] * rank, True)}
    )
    assert_same(proto, FEED)


@pytest.mark.parametrize("count", [0, 1])
def test_no_time_and_one_time(count: int) -> None:
    nodes = [*STATE, loop(["n", "yes", "h0"], ["h1"], CELL, ["h"], ["h_out"]), node("Add", ["h1", "b"], ["y"])]
    assert_same(model(nodes, X, ["y"], NUMBERS | WEIGHTS | {"n": np.array(count, I64)}), FEED)


def test_a_condition_that_is_false_from_the_beginning_runs_nothing() -> None:
    nodes = [*STATE, loop(["count", "no", "h0"], ["y"], CELL, ["h"], ["h_out"])]
    assert_same(model(nodes, X, ["y"], NUMBERS | WEIGHTS | {"no": np.array(False)}), FEED)


@pytest.mark.parametrize("bound", [2, 40])
def test_a_condition_that_ends_the_loop_is_followed(bound: int) -> None:
    condition = node("Less", ["i", "bound"], ["go_on"])
    nodes = [*STATE, loop(["count", "", "h0"], ["y"], CELL, ["h"], ["h_out"], condition=condition)]
    assert_same(model(nodes, X, ["y"], NUMBERS | WEIGHTS | {"bound": np.array(bound, I64)}), FEED)


def test_states_may_change_places_and_shapes() -> None:
    nodes = [
        node("Mul", ["a", "half"], ["a_half"]),
        node("Concat", ["grown", "a"], ["grown_out"], axis=1),
        node("Add", ["b", "half"], ["b_out"]),
    ]
    cell = loop(["count", "yes", "x", "h", "x"], ["p", "q", "y"], nodes, ["a", "b", "grown"], ["b_out", "a_half", "grown_out"])
    all_nodes = [node("Neg", ["x"], ["h"]), cell, node("Concat", ["p", "q", "y"], ["z"], axis=1)]
    assert_same(model(all_nodes, {"x": [BATCH, WIDTH]}, ["z"], NUMBERS | {"half": scalar(0.5)}), {"x": normal(3, WIDTH)})


def test_a_product_that_is_handed_on_takes_no_bias() -> None:
    """What is added at the next time belongs to that alone, as the product is read elsewhere."""
    nodes = [
        node("Add", ["h", "b"], ["sum"]),
        node("Relu", ["sum"], ["r"]),
        node("MatMul", ["r", "u"], ["h_out"]),
        node("Identity", ["h_out"], ["step"]),
    ]
    cell = loop(["count", "yes", "h0"], ["h1", "all"], nodes, ["h"], ["h_out", "step"])
    after = [node("Add", ["h1", "c"], ["y"]), node("Add", ["h0", "c"], ["z"])]
    first = [node("ReduceSum", ["x", "time"], ["s"], keepdims=0), node("MatMul", ["s", "w"], ["h0"])]
    proto = model([*first, cell, *after], X, ["y", "z", "all"], NUMBERS | WEIGHTS | {"c": normal(WIDTH, seed=9)})
    assert_same(proto, FEED)


def test_loops_stand_in_loops_and_choices_in_both() -> None:
    """The inner body reads both numbers, and what it computes by turns is decided by the outer one."""
    even = [node("Mod", ["i", "two"], ["odd"]), node("Equal", ["odd", "none"], ["even"])]
    sides = [
        helper.make_graph([node("MatMul", ["h", "u"], [f"m{k}"]), node(kind, [f"m{k}", operand], [f"o{k}"])], "side", [], [out])
        for k, kind, operand in ((0, "Add", "b"), (1, "Mul", "real"))
        for out in [helper.make_tensor_value_info(f"o{k}", 1, None)]
    ]
    choice = node("If", ["even"], ["chosen"], then_branch=sides[0], else_branch=sides[1])
    inner = [node("Cast", ["j"], ["real"], to=1), *even, choice, node("Tanh", ["chosen"], ["h_in_out"])]
    nested = loop(["i", "", "g"], ["g_out"], inner, ["h"], ["h_in_out"], names=("j", "go_in", "still"),
                  condition=node("Identity", ["go_in"], ["still"]))  # fmt: skip
    outer = loop(["count", "yes", "h0"], ["y"], [nested], ["g"], ["g_out"])
    numbers = {"two": np.array(2, I64), "none": np.array(0, I64)}
    module = assert_same(model([*STATE, outer], X, ["y"], NUMBERS | WEIGHTS | numbers), FEED)
    assert sum(item.numel() for item in module.parameters()) == WIDTH * WIDTH + WIDTH


def test_a_body_may_pick_a_weight_of_its_own_for_each_time() -> None:
    nodes = [node("Gather", ["ws", "i"], ["w"], axis=0), node("MatMul", ["h", "w"], ["m"]), node("Add", ["m", "b"], ["d"])]
    cell = loop(["count", "yes", "h0"], ["y"], [*nodes, node("Tanh", ["d"], ["h_out"])], ["h"], ["h_out"])
    constants = NUMBERS | {"ws": normal(STEPS, WIDTH, WIDTH), "b": normal(WIDTH)}
    module = assert_same(model([*STATE, cell], X, ["y"], constants), FEED)
    assert sum(item.numel() for item in module.parameters()) == STEPS * WIDTH * WIDTH + WIDTH


@pytest.mark.parametrize("batch", [1, 3, BATCH])
def test_a_stored_first_state_is_spread_over_the_batch(batch: int | str) -> None:
    rows = 1 if batch == BATCH else int(batch)
    nodes = [loop(["count", "yes", "start"], ["y", "all"], [*CELL, node("Identity", ["h"], ["before"])], ["h"], ["h_out", "before"])]
    start = np.repeat(normal(1, WIDTH, seed=8), rows, 0)
    if batch == BATCH:
        nodes = [loop(["count", "yes", "start"], ["y"], CELL, ["h"], ["h_out"])]
    proto = model(nodes, {"x": [batch, STEPS, WIDTH]}, ["y", "all"][: 1 + (batch != BATCH)], NUMBERS | WEIGHTS | {"start": start})
    module = assert_same(proto, {"x": normal(3 if batch == BATCH else rows, STEPS, WIDTH)})
    assert sum(item.numel() for item in module.parameters()) <= sum(item.size for item in WEIGHTS.values()) + WIDTH


def test_layers_of_every_kind_are_one_in_a_body() -> None:
    """A convolution, normalizations new and trained, an embedding and a recurrent layer."""
    nodes = [
        node("Conv", ["h", "k", "b"], ["c"], pads=[1, 1]),
        node("BatchNormalization", ["c", "one", "zero", "zero", "one"], ["n"]),
        node("Transpose", ["n"], ["t"], perm=[2, 0, 1]),
        node("LSTM", ["t", "lw", "lr", "lb"], ["l"], hidden_size=4),
        node("Squeeze", ["l", "first"], ["q"]),
        node("Transpose", ["q"], ["back"], perm=[1, 2, 0]),
        node("LayerNormalization", ["back", "scale", "shift"], ["h_out"]),
    ]
    cell = loop(["count", "yes", "x"], ["y"], nodes, ["h"], ["h_out"])
    weights = {
        "k": normal(WIDTH, WIDTH, 3),
        "b": normal(WIDTH),
        "one": np.ones(WIDTH, np.float32),
        "zero": np.zeros(WIDTH, np.float32),
        "lw": normal(1, 16, 4),
        "lr": normal(1, 16, 4),
        "lb": normal(1, 32),
        "scale": normal(6),
        "shift": normal(6),
    }
    proto = model([cell], {"x": [BATCH, WIDTH, 6]}, ["y"], NUMBERS | weights | {"first": ints(1)})
    module = assert_same(proto, {"x": normal(3, WIDTH, 6)})
    assert [type(item).__name__ for item in module.children()] == ["Conv1d", "BatchNorm1d", "LSTM", "LayerNorm"]


def test_what_the_data_decide_is_refused() -> None:
    count = [node("ReduceMax", ["x"], ["top"], keepdims=0), node("Cast", ["top"], ["n"], to=7)]
    cases = {
        "how often": [*count, *STATE, loop(["n", "yes", "h0"], ["y"], CELL, ["h"], ["h_out"])],
        "whether at all": [*count, node("Cast", ["n"], ["go0"], to=9), *STATE, loop(["", "go0", "h0"], ["y"], CELL, ["h"], ["h_out"])],
        "how long": [
            *STATE,
            loop(
                ["count", "yes", "h0"],
                ["y"],
                [*CELL, node("ReduceMax", ["h_out"], ["top"], keepdims=0), node("Greater", ["top", "tenth"], ["go_on"])],
                ["h"],
                ["h_out"],
                condition=None,
            ),
        ],
    }
    for nodes in cases.values():
        with pytest.raises(EngineError, match="control flow depends on the data") as caught:
            build_module(model(nodes, X, ["y"], NUMBERS | WEIGHTS))
        assert caught.value.code == "unsupported_operator"
        assert caught.value.details["operator"] == "Loop"


def test_a_smaller_one_of_a_number_and_an_open_size_is_no_known_number() -> None:
    """All sizes that are imagined are larger than five; a shorter input is not."""
    nodes = [
        *STATE,
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "time"], ["length"]),
        node("Min", ["length", "five"], ["n"]),
        loop(["n", "yes", "h0"], ["y"], CELL, ["h"], ["h_out"]),
    ]
    constants = NUMBERS | WEIGHTS | {"five": ints(5)}
    with pytest.raises(EngineError, match="a size that the file leaves open"):
        build_module(model(nodes, {"x": [BATCH, "length", WIDTH]}, ["y"], constants))
    assert_same(model(nodes, X, ["y"], constants), FEED)


def test_a_loop_that_becomes_too_many_operators_is_refused_before_it_is_unrolled(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = [node("Add", ["t", "tenth"], ["t_out"]), node("Less", ["t_out", "far"], ["go_on"]), node("Relu", ["h"], ["h_out"])]
    endless = loop(["", "yes", "zero", "h0"], ["t1", "y"], counter, ["t", "h"], ["t_out", "h_out"], condition=None)
    many = loop(["many", "yes", "h0"], ["y"], CELL, ["h"], ["h_out"])
    constants = NUMBERS | WEIGHTS | {"many": np.array(2**40, I64), "far": scalar(1e9), "zero": scalar(0)}
    monkeypatch.setattr(limits, "MAX_UNROLLED_NODES", 300)
    for cell in (many, endless):
        with pytest.raises(EngineError, match="more than 300 operators would come of it") as caught:
            build_module(model([*STATE, cell], X, ["y"], constants))
        assert caught.value.code == "unsupported_operator"


def test_what_never_runs_and_stacks_is_refused() -> None:
    nodes = [*STATE, loop(["none", "yes", "h0"], ["h", "y"], [*CELL, node("Neg", ["a"], ["n"])], ["h"], ["h_out", "n"])]
    with pytest.raises(EngineError, match="never runs") as caught:
        build_module(model(nodes, X, ["y"], NUMBERS | WEIGHTS | {"none": np.array(0, I64)}))
    assert caught.value.code == "unsupported_operator"


def test_a_body_that_does_not_fit_its_node_is_invalid() -> None:
    without = node("Loop", ["count", "yes", "x"], ["y"])
    short = node(
        "Loop", ["count", "yes", "x"], ["y"], body=body([YES], ["i", "go"], ["go_on"], kinds={"i": "i0", "go": "b0", "go_on": "b0"})
    )
    for cell in (without, short):
        with pytest.raises(EngineError) as caught:
            build_module(model([cell], X, ["y"], NUMBERS))
        assert caught.value.code == "model_invalid"


def test_an_operator_without_a_trainable_form_is_named_in_a_body_too() -> None:
    nodes = [loop(["count", "yes", "x"], ["y"], [node("NonZero", ["h"], ["h_out"])], ["h"], ["h_out"])]
    with pytest.raises(EngineError, match=r"node_h_out \(NonZero\)"):
        build_module(model(nodes, X, ["y"], NUMBERS))


@pytest.mark.parametrize("batch", [BATCH, 1])
def test_a_recurrent_layer_of_one_step_is_one_layer_from_a_stored_state_on(batch: int | str) -> None:
    """As torch scripts an LSTM cell: the first state is a constant, and the later ones are not."""
    nodes = [
        node("Gather", ["x", "i"], ["x_t"], axis=1),
        node("Unsqueeze", ["x_t", "first"], ["s"]),
        node("LSTM", ["s", "lw", "lr", "lb", "", "h", "c"], ["l", "h_out", "c_out"], hidden_size=4),
    ]
    zeros = np.zeros((1, 1, 4), np.float32)
    states = ["zeros", "zeros"] if batch == 1 else ["h0", "h0"]
    start = [
        node("ReduceSum", ["x", "last"], ["s0"], keepdims=0),
        node("Slice", ["s0", "first", "four", "one_axis"], ["s1"]),
        node("Unsqueeze", ["s1", "first"], ["h0"]),
    ]
    cell = loop(["count", "yes", *states], ["h1", "y"], nodes, ["h", "c"], ["h_out", "c_out"])
    weights = {"lw": normal(1, 16, WIDTH), "lr": normal(1, 16, 4), "lb": normal(1, 32), "zeros": zeros}
    numbers = {"first": ints(0), "last": ints(2), "four": ints(4), "one_axis": ints(1)}
    proto = model([*start, cell], {"x": [batch, STEPS, WIDTH]}, ["y", "h1"], NUMBERS | weights | numbers)
    module = assert_same(proto, {"x": normal(1 if batch == 1 else 3, STEPS, WIDTH)})
    assert [type(item).__name__ for item in module.children()] == ["LSTM"]


def test_weights_that_bodies_pick_again_in_another_turn_stay_one_each() -> None:
    """More of them than are compared with one another."""
    inner = [node("Gather", ["ws", "j"], ["w"], axis=0), node("MatMul", ["h", "w"], ["m"]), node("Tanh", ["m"], ["h_in_out"])]
    condition = node("Identity", ["go_in"], ["still"])
    nested = loop(["twelve", "", "g"], ["g_out"], inner, ["h"], ["h_in_out"], names=("j", "go_in", "still"), condition=condition)
    outer = loop(["three", "yes", "h0"], ["y"], [nested], ["g"], ["g_out"])
    constants = NUMBERS | {"ws": normal(12, WIDTH, WIDTH), "twelve": np.array(12, I64), "three": np.array(3, I64)}
    module = assert_same(model([*STATE, outer], X, ["y"], constants), FEED)
    assert sum(item.numel() for item in module.parameters()) == 12 * WIDTH * WIDTH
