"""Sequences whose members are known one by one, as torch writes a list that a loop fills."""

import io
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from engine.contract.errors import EngineError
from engine.formats.onnx.importer.rebuild import build_module
from tests.engine.formats.onnx.graphs import BATCH, I64, assert_same, ints, model, node, normal

X = {"x": [BATCH, 4]}


def number(value: int) -> np.ndarray:
    return np.array(value, dtype=I64)


@pytest.mark.parametrize(("place", "at"), [(0, -1), (1, 0), (-1, 1), (-2, 2), (2, -3)])
def test_members_are_put_and_read_at_places_from_both_ends(place: int, at: int) -> None:
    nodes = [
        node("Neg", ["x"], ["a"]),
        node("Exp", ["x"], ["b"]),
        node("Abs", ["x"], ["c"]),
        node("SequenceConstruct", ["a", "b"], ["two"]),
        node("SequenceInsert", ["two", "c", "place"], ["three"]),
        node("SequenceAt", ["three", "at"], ["y"]),
        node("SequenceLength", ["three"], ["n"]),
        node("SequenceErase", ["three", "place"], ["rest"]),
        node("ConcatFromSequence", ["rest"], ["z"], axis=1),
        node("SequenceErase", ["three"], ["first"]),
        node("ConcatFromSequence", ["first"], ["w"], axis=-1, new_axis=1),
    ]
    proto = model(nodes, X, ["y", "z", "w", "n"], {"place": number(place), "at": number(at)}, types={"n": "i"})
    assert_same(proto, {"x": normal(3, 4)})


@pytest.mark.parametrize(
    ("sizes", "how"),
    [
        (None, {"keepdims": 0}),
        (None, {}),
        (number(3), {}),
        (number(1), {"keepdims": 0}),
        (ints(1, 3), {}),
        (ints(1, 1, 1, 1), {"keepdims": 0}),
    ],
)
def test_a_tensor_is_split_into_a_sequence(sizes: np.ndarray | None, how: dict[str, int]) -> None:
    nodes = [
        node("SplitToSequence", ["x", *([] if sizes is None else ["sizes"])], ["s"], axis=1, **how),
        node("SequenceAt", ["s", "zero"], ["a"]),
        node("SequenceAt", ["s", "last"], ["b"]),
        node("Neg", ["a"], ["y"]),
        node("Exp", ["b"], ["z"]),
    ]
    constants = {"zero": number(0), "last": number(-1)} | ({} if sizes is None else {"sizes": sizes})
    assert_same(model(nodes, X, ["y", "z"], constants), {"x": normal(3, 4)})


def test_what_stands_in_a_sequence_takes_no_bias() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("SequenceConstruct", ["h"], ["s"]),
        node("SequenceAt", ["s", "zero"], ["one"]),
        node("SequenceAt", ["s", "zero"], ["same"]),
        node("Add", ["one", "b"], ["y"]),
        node("Relu", ["same"], ["z"]),
    ]
    assert_same(model(nodes, X, ["y", "z"], {"w": normal(4, 4), "b": normal(4), "zero": number(0)}), {"x": normal(3, 4)})


def test_a_sequence_in_the_place_of_a_tensor_and_the_other_way_round_is_refused() -> None:
    made = node("SequenceConstruct", ["x", "x"], ["s"])
    wrong = {
        "a tensor is needed": [made, node("Relu", ["s"], ["y"])],
        "a sequence is needed": [node("SequenceAt", ["x", "zero"], ["y"])],
        "cannot be dropped": [node("SplitToSequence", ["x", "two"], ["s"], axis=1, keepdims=0), node("SequenceAt", ["s", "zero"], ["y"])],
        "place 7 of 2": [made, node("SequenceAt", ["s", "far"], ["y"])],
    }
    for reason, nodes in wrong.items():
        with pytest.raises(EngineError, match=reason) as caught:
            build_module(model(nodes, X, ["y"], {"zero": number(0), "two": number(2), "far": number(7)}))
        assert caught.value.code == "model_invalid"
    for nodes, reason in (
        ([node("SequenceEmpty", [], ["s"]), node("ConcatFromSequence", ["s"], ["y"], axis=0)], "joins nothing"),
        ([node("SplitToSequence", ["x"], ["s"], axis=0), node("SequenceAt", ["s", "zero"], ["y"])], "open dimension"),
        ([made], "is a sequence, and no tensor"),
    ):
        proto = model(nodes, X, ["y" if len(nodes) > 1 else "s"], {"zero": number(0)})
        with pytest.raises(EngineError, match=reason) as caught:
            build_module(proto)
        assert caught.value.code == "unsupported_operator"


class Steps(nn.Module):
    """A cell with a normalization, and a layer behind all states."""

    def __init__(self) -> None:
        super().__init__()
        self.given, self.state, self.norm, self.out = nn.Linear(5, 8), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        state, states = torch.zeros(x.size(0), 8), []
        for step in range(x.size(1)):
            state = torch.tanh(self.norm(self.given(x[:, step]) + self.state(state)))
            states.append(state)
        result: Tensor = self.out(torch.stack(states, 1))
        return result


class Unbound(Steps):
    """A list that the loop reads, as long as the dimension that it was."""

    def forward(self, x: Tensor) -> Tensor:
        steps = x.unbind(1)
        state = self.given(steps[0])
        for step in steps:
            state = torch.tanh(self.norm(self.given(step) + self.state(state)))
        result: Tensor = self.out(state)
        return result


class Last(Steps):
    """The last state alone, and no sequence."""

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(x.size(0), 8)
        for step in range(x.size(1)):
            state = torch.tanh(self.norm(self.given(x[:, step]) + self.state(state)))
        result: Tensor = self.out(state)
        return result


@pytest.mark.parametrize(("network", "dynamic"), [(Steps, True), (Steps, False), (Last, True), (Last, False), (Unbound, True)])
@pytest.mark.filterwarnings("ignore")
def test_loops_of_scripted_networks_are_imported(network: Callable[[], nn.Module], dynamic: bool) -> None:
    torch.manual_seed(0)
    target, original = io.BytesIO(), network().eval()
    torch.onnx.export(
        torch.jit.script(original),
        (torch.randn(2, 6, 5),),
        target,
        dynamo=False,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "n"}, "y": {0: "n"}} if dynamic else None,
    )
    proto = onnx.load_from_string(target.getvalue())
    assert "Loop" in {item.op_type for item in proto.graph.node}
    module = assert_same(proto, {"x": normal(4 if dynamic else 2, 6, 5)})
    assert sum(item.numel() for item in module.parameters()) == sum(item.numel() for item in original.parameters())
    assert {"given", "state", "out"} <= {name for name, _ in module.named_children()}


def test_an_input_that_is_a_sequence_is_refused() -> None:
    proto = model([node("SequenceAt", ["s", "zero"], ["y"])], {}, ["y"], {"zero": number(0)})
    proto.graph.input.append(helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None))
    with pytest.raises(EngineError) as caught:
        build_module(proto)
    assert caught.value.code == "unsupported_operator"
