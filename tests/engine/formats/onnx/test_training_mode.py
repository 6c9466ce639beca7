"""What was exported in training mode computes something else for every batch, or at random: it is refused, with the way out."""

import numpy as np
import onnx
import pytest
import torch

from engine.contract.errors import EngineError
from engine.formats.onnx.importer.rebuild import build_module
from tests.engine.formats.onnx.graphs import BATCH, assert_same, model, node, normal, scalar

STATISTICS = {"s": np.ones(4, np.float32), "o": normal(4), "m": normal(4, seed=1), "v": np.ones(4, np.float32)}


def normalization(outputs: list[str], **attributes: int) -> onnx.NodeProto:
    return node("BatchNormalization", ["x", *STATISTICS], outputs, **attributes)


@pytest.mark.parametrize(
    ("nodes", "opset"),
    [
        ([normalization(["y", "mean", "variance"], training_mode=1)], 15),
        ([normalization(["y"], training_mode=1)], 14),
        ([normalization(["y", "mean", "variance", "saved_mean", "saved_variance"])], 9),
        ([normalization(["y"], is_test=0)], 6),
        ([normalization(["y"])], 6),
        ([node("Dropout", ["x", "ratio", "mode"], ["y"])], 13),
        ([node("Dropout", ["x"], ["y"], is_test=0)], 6),
    ],
)
def test_training_mode_is_refused_with_the_export_that_avoids_it(nodes: list[onnx.NodeProto], opset: int) -> None:
    constants = {**STATISTICS, "ratio": scalar(0.4), "mode": np.array(True)}
    used = {name: constants[name] for name in nodes[0].input if name in constants}
    with pytest.raises(EngineError) as caught:
        build_module(model(nodes, {"x": [BATCH, 4, 3]}, ["y"], used, opset=opset))
    assert (caught.value.code, "training mode" in caught.value.message) == ("unsupported_operator", True)
    assert "model.eval()" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("nodes", "opset"),
    [
        ([normalization(["y"], training_mode=0)], 15),
        ([normalization(["y"])], 9),
        ([node("Dropout", ["x", "ratio", "mode"], ["y"])], 13),
        ([node("Dropout", ["x", "ratio"], ["y"])], 13),
        ([node("Dropout", ["x", "none", "mode"], ["y"])], 13),
        ([node("Dropout", ["x"], ["y"], ratio=0.4)], 10),
    ],
)
def test_inference_mode_computes_the_same(nodes: list[onnx.NodeProto], opset: int) -> None:
    constants = {**STATISTICS, "ratio": scalar(0.4), "none": scalar(0.0), "mode": np.array("none" in nodes[0].input)}
    used = {name: constants[name] for name in nodes[0].input if name in constants}
    assert_same(model(nodes, {"x": [BATCH, 4, 3]}, ["y"], used, opset=opset), {"x": normal(2, 4, 3)})


def test_dropout_is_active_in_training() -> None:
    module = build_module(model([node("Dropout", ["x"], ["y"], ratio=0.5)], {"x": [BATCH, 64]}, ["y"], opset=10))
    x = torch.ones(2, 64)
    assert torch.equal(module(x), x)
    assert set(module.train()(x).unique().tolist()) == {0.0, 2.0}
