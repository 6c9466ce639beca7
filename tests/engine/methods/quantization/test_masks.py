"""Attention spelled out, with masks of every kind: what is masked stays masked, and everything else keeps its precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from engine.methods.quantization.calibration import towards_softmax
from engine.methods.quantization.index import Index
from engine.methods.quantization.plan import plan
from tests.engine.methods.quantization.checking import decibels, outputs, static
from tests.engine.methods.quantization.test_qdq import Node, node, normal
from tests.engine.small import save

PLACES, WIDTH = 6, 16
FEED = {"x": np.random.default_rng(3).standard_normal((12, PLACES, WIDTH)).astype(np.float32)}
UPPER = np.triu(np.ones((PLACES, PLACES), bool), 1)
MASKS = {"-1e4": -1e4, "-1e9": -1e9, "lowest": float(np.finfo(np.float32).min), "-inf": -np.inf}


def attention(path: Path, kind: str, how: str) -> Path:
    """One head of causal attention, a normalization spelled out and a perceptron; the mask is added, chosen or multiplied."""
    value = np.float32(MASKS[kind])
    weights = {name: normal(WIDTH, WIDTH) for name in ("wq", "wk", "wv", "wo", "wu", "wd")} | {
        "scale": np.float32(WIDTH**-0.5),
        "upper": UPPER,
        "mask": np.where(UPPER, value, np.float32(0)).astype(np.float32),
        "value": value,
        "one": np.float32(1),
        "lower": (~UPPER).astype(np.float32),
        "two": np.float32(2),
        "tiny": np.float32(1e-5),
    }
    masked: dict[str, list[Node]] = {
        "added": [node("Add", "scaled mask", "masked", "put")],
        "chosen": [node("Where", "upper value scaled", "masked", "put")],
        "multiplied": [
            node("Sub", "one lower", "hidden", "turn"),
            node("Mul", "hidden value", "computed", "grow"),
            node("Add", "scaled computed", "masked", "put"),
        ],
    }
    nodes = [
        node("ReduceMean", "x", "mean", "mean", axes=[-1]),
        node("Sub", "x mean", "centred", "centre"),
        node("Pow", "centred two", "squares", "square"),
        node("ReduceMean", "squares", "variance", "variance", axes=[-1]),
        node("Add", "variance tiny", "safe", "safe"),
        node("Sqrt", "safe", "deviation", "deviation"),
        node("Div", "centred deviation", "n", "norm"),
        *(node("MatMul", f"n w{part}", part, f"project_{part}") for part in "qkv"),
        node("Transpose", "k", "kt", "turn_k", perm=[0, 2, 1]),
        node("MatMul", "q kt", "scores", "compare"),
        node("Mul", "scores scale", "scaled", "scale_scores"),
        *masked[how],
        node("Softmax", "masked", "weights", "softmax", axis=-1),
        node("MatMul", "weights v", "mixed", "mix"),
        node("MatMul", "mixed wo", "o", "out"),
        node("Add", "x o", "sum", "residual"),
        node("MatMul", "sum wu", "u", "up"),
        node("Relu", "u", "r", "relu"),
        node("MatMul", "r wd", "y", "down"),
    ]
    shape = ["batch", PLACES, WIDTH]
    return save(path, nodes, weights, {"x": shape}, {"y": shape})


PAIRS = [(kind, how) for kind in MASKS for how in ("added", "chosen", "multiplied") if (kind, how) != ("-inf", "multiplied")]
"""Zero times infinity is no number in the original either."""


@pytest.mark.parametrize(("kind", "how"), PAIRS)
def test_masks_stay_masks(tmp_path: Path, kind: str, how: str) -> None:
    path = attention(tmp_path / "net.onnx", kind, how)
    before = outputs(path, FEED)
    for params, least in (({}, 30), ({"calibration": {"observer": "percentile"}}, 25), ({"operators": "all"}, 15)):
        file, chosen, blamed = static(path, [FEED], tmp_path, **params)
        assert not blamed
        assert {"project_q", "out", "up", "down"} <= set(chosen.weights)
        assert decibels(before, outputs(file, FEED, optimized=False)) > least
        assert decibels(before, outputs(file, FEED)) > least


def test_by_default_neither_scores_nor_normalizations_are_rounded(tmp_path: Path) -> None:
    index = Index(onnx.load(attention(tmp_path / "net.onnx", "-1e9", "added")))
    onnx.save(onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "net.onnx")), tmp_path / "net.onnx")
    index = Index(onnx.load(tmp_path / "net.onnx"))
    assert plan(index, "weighted", (), symmetric=False).rounded(index) == ["n", "mixed", "sum", "r"]
    everything = plan(index, "all", (), symmetric=False)
    assert {"n", "q", "kt", "scores", "weights", "mixed"} <= set(everything.rounded(index))
    assert "put" not in everything.nodes  # what it adds is a mask


def test_only_what_flows_from_a_mask_into_a_softmax_is_looked_at_as_masked(tmp_path: Path) -> None:
    attention(tmp_path / "net.onnx", "-1e4", "multiplied")
    onnx.save(onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "net.onnx")), tmp_path / "net.onnx")
    assert towards_softmax(Index(onnx.load(tmp_path / "net.onnx"))) == {"masked"}


def test_rows_that_are_masked_whole_do_not_widen_the_range(tmp_path: Path) -> None:
    """Padded rows: everything is -infinity, softmax gives NaN, and the network puts zeros there."""
    weights = {"w": normal(WIDTH, PLACES), "v": normal(PLACES, 4), "zero": np.float32(0), "hidden": np.float32(-np.inf)}
    nodes = [
        node("MatMul", "x w", "s", "scores"),
        node("Where", "padded hidden s", "m", "put"),
        node("Softmax", "m", "p", "softmax", axis=-1),
        node("IsNaN", "p", "wrong", "is"),
        node("Where", "wrong zero p", "q", "mend"),
        node("MatMul", "q v", "y", "last"),
    ]
    inputs = {"x": ["batch", PLACES, WIDTH], "padded": (onnx.TensorProto.BOOL, ["batch", PLACES, 1])}
    path = save(tmp_path / "net.onnx", nodes, weights, inputs, {"y": ["batch", PLACES, 4]})
    feed = {**FEED, "padded": np.arange(PLACES)[None, :, None] < np.arange(12)[:, None, None] % 3}
    for operators, least in (("weighted", 30), ("all", 20)):
        file, _, blamed = static(path, [feed], tmp_path, operators=operators)
        # Rounded with all operators, a row that is masked whole is no row of NaN any more: that is no rounding, and it is found.
        assert set(blamed) <= ({"put", "softmax"} if operators == "all" else set())
        assert decibels(outputs(path, feed), outputs(file, feed)) > least


def test_an_operand_that_is_a_mask_stays_in_float(tmp_path: Path) -> None:
    path = save(
        tmp_path / "net.onnx",
        [helper.make_node("Add", ["x", "m"], ["y"], "add")],
        {"m": np.float32([0, -1e9, 0, 1])},
        {"x": ["n", 4]},
        {"y": ["n", 4]},
    )
    assert plan(Index(onnx.load(path)), "all", (), symmetric=False).nodes == ()
