"""Networks whose loop reads an embedding, and takes weights along that are used before it as well, as Keras writes a masked LSTM.

ONNX Runtime ends the process that loads a file in which a DequantizeLinear reaches the body of a loop.
"""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from engine.contract.metadata import ModelMetadata
from engine.formats import load_network
from engine.methods.context import Context
from engine.methods.quantization.quantization_aware_training import EXACT, apply
from engine.methods.quantization.spec import DynamicQuantization, Int8Quantization, StaticQuantization
from engine.methods.quantization.spec_training import QuantizationAwareTraining
from engine.methods.quantization.spec_weights import WeightOnlyQuantization
from tests.engine.drawn.checks import Split, Splits
from tests.engine.formats.onnx.graphs import BATCH, I64, model, node, normal
from tests.engine.methods.quantization.checking import decibels, dynamic, outputs, static

STEPS, WIDTH = 4, 12


def test_methods_that_train_nothing_need_no_trainable_form() -> None:
    """What cannot be trained, such as a loop of unknown length, is quantized all the same; a trainable form would be asked for before any work."""
    methods = (StaticQuantization, DynamicQuantization, WeightOnlyQuantization, Int8Quantization)
    assert [method.requires.trainable for method in methods] == [False] * 4
    assert QuantizationAwareTraining.requires.trainable


def looping(folder: Path) -> Path:
    """Tokens, an embedding, a first step outside of the loop and the others inside, a layer."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            node("Gather", ["steps", "i"], ["x"], axis=0),
            node("MatMul", ["h", "u_in"], ["hu"]),
            node("Add", ["hu", "x"], ["a"]),
            node("Tanh", ["a"], ["h_out"]),
            node("Identity", ["u_in"], ["u_out"]),
            node("Identity", ["go"], ["go_out"]),
        ],
        "body",
        [
            info("i", TensorProto.INT64, []),
            info("go", TensorProto.BOOL, []),
            info("h", TensorProto.FLOAT, None),
            info("u_in", TensorProto.FLOAT, [WIDTH, WIDTH]),
        ],
        [info("go_out", TensorProto.BOOL, []), info("h_out", TensorProto.FLOAT, None), info("u_out", TensorProto.FLOAT, [WIDTH, WIDTH])],
    )
    nodes = [
        node("Gather", ["table", "ids"], ["e"], axis=0),
        node("Transpose", ["e"], ["steps"], perm=[1, 0, 2]),
        node("Gather", ["steps", "first"], ["x0"], axis=0),
        node("MatMul", ["x0", "u"], ["h0"]),
        helper.make_node("Loop", ["count", "yes", "h0", "u"], ["h", "u_last"], "loop", body=body),
        node("MatMul", ["h", "out"], ["y"]),
    ]
    constants = {
        "table": normal(50, WIDTH),
        "u": 0.3 * normal(WIDTH, WIDTH),
        "out": normal(WIDTH, 16),
        "first": np.array(0, dtype=I64),
        "count": np.array(STEPS, dtype=I64),
        "yes": np.array(True),
    }
    path = folder / "loop.onnx"
    onnx.save(model(nodes, {"ids": [BATCH, STEPS]}, ["y"], constants, opset=17, types={"ids": "i"}), path)
    proto = onnx.load(path)
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_a_loop_that_reads_an_embedding(kind: str, tmp_path: Path) -> None:
    path = looping(tmp_path)
    feed = {"ids": np.random.default_rng(0).integers(0, 50, (20, STEPS))}
    found = static(path, [feed], tmp_path)[0] if kind == "static" else dynamic(path, tmp_path)
    assert decibels(outputs(path, feed), outputs(found, feed)) > 30
    stored = {item.name: item for item in onnx.load(found).graph.initializer}
    assert [name for name, item in stored.items() if list(item.dims) == [50, WIDTH] and item.data_type == TensorProto.FLOAT] == []
    assert sum(list(item.dims) == [WIDTH, WIDTH] for item in stored.values()) == 1  # what the loop takes along is not stored twice


def test_training_goes_through_the_loop_that_the_file_keeps(tmp_path: Path) -> None:
    """Unrolled, the body's weights are trained too, and go back into the body; what is trained is what the file computes."""
    path, random = looping(tmp_path), np.random.default_rng(0)
    network = load_network(path, "onnx", ModelMetadata(), tmp_path)
    data = Splits({split: Split({"ids": random.integers(0, 50, (32, STEPS))}) for split in ("train", "validation", "test")})
    context = Context(seed=0, device=torch.device("cpu"), work=tmp_path, emit=lambda event: None, baseline=network, data=data)
    context = context.for_step(0, (0.0, 1.0))
    params = QuantizationAwareTraining(teacher="baseline", alpha=1.0, epochs=2, batch_size=8, learning_rate=0.01, keep="last")
    result = apply(network, params, context)
    assert context.reported["grid"]["largest_difference"] < EXACT
    written = onnx.load(result.file(tmp_path / "trained.onnx"))
    assert [item.op_type for item in written.graph.node].count("Loop") == 1
    before, after = ({item.name: numpy_helper.to_array(item) for item in proto.graph.initializer} for proto in (onnx.load(path), written))
    assert np.abs(before["u"] - after["u"]).max() > 1e-3
