"""A small convolutional network with batch normalization, as an ONNX file: 24, 48 and 48 filters on 14×14 digits."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTHS = (1, 24, 48, 48)


def write(path: Path) -> Path:
    """Weights that the claim does not use: the job draws its own initial ones."""
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    nodes, tensors, last = [], {}, "image"
    for number, (before, after) in enumerate(pairwise(WIDTHS), start=1):
        name = f"conv{number}"
        tensors[f"{name}.weight"] = rng.normal(0, (2 / (9 * before)) ** 0.5, (after, before, 3, 3))
        norm = {f"bn{number}.weight": 1, f"bn{number}.bias": 0, f"bn{number}.running_mean": 0, f"bn{number}.running_var": 1}
        tensors |= {key: np.full(after, value) for key, value in norm.items()}
        nodes.append(helper.make_node("Conv", [last, f"{name}.weight"], [name], pads=[1, 1, 1, 1], kernel_shape=[3, 3]))
        nodes.append(helper.make_node("BatchNormalization", [name, *norm], [f"bn{number}"]))
        nodes.append(helper.make_node("Relu", [f"bn{number}"], [f"relu{number}"]))
        last = f"relu{number}"
        if number == 1:
            nodes.append(helper.make_node("MaxPool", [last], ["pool"], kernel_shape=[2, 2], strides=[2, 2]))
            last = "pool"
    tensors |= {"fc.weight": rng.normal(0, 0.1, (10, WIDTHS[-1])), "fc.bias": np.zeros(10)}
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["mean"]))
    nodes.append(helper.make_node("Flatten", ["mean"], ["features"]))
    nodes.append(helper.make_node("Gemm", ["features", "fc.weight", "fc.bias"], ["scores"], transB=1))
    graph = helper.make_graph(
        nodes,
        "convnet",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 14, 14])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path
