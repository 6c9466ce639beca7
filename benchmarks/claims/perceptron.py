"""A perceptron of three hidden layers of 256 units on 28×28 digits, batch normalization behind every layer, the last one included."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTHS = (784, 256, 256, 256, 10)


def write(path: Path) -> Path:
    """Weights that the claim does not use: every job draws its own initial ones."""
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    nodes, tensors, last = [helper.make_node("Flatten", ["image"], ["pixels"])], {}, "pixels"
    for number, (before, after) in enumerate(pairwise(WIDTHS), start=1):
        name, norm = f"fc{number}", f"bn{number}"
        tensors |= {f"{name}.weight": rng.normal(0, (2 / before) ** 0.5, (after, before)), f"{name}.bias": np.zeros(after)}
        norms = {f"{norm}.weight": 1, f"{norm}.bias": 0, f"{norm}.running_mean": 0, f"{norm}.running_var": 1}
        tensors |= {key: np.full(after, value) for key, value in norms.items()}
        nodes.append(helper.make_node("Gemm", [last, f"{name}.weight", f"{name}.bias"], [name], transB=1))
        final = number == len(WIDTHS) - 1
        nodes.append(helper.make_node("BatchNormalization", [name, *norms], ["scores" if final else norm]))
        last = f"relu{number}"
        if not final:
            nodes.append(helper.make_node("Relu", [norm], [last]))
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 28, 28])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path
