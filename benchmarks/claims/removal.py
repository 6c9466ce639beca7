"""T5: cutting filters out computes what zeroing them computes, and only cutting makes the dense network faster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from benchmarks.claims.bench import Bench
from benchmarks.claims.claim import Check, Claim, Figures, one

MODEL = Path(__file__).parents[2] / "examples" / "digits.onnx"
LATENCY = {"latency": {"batch_sizes": [1, 32], "repeats": 200}}


def removal(bench: Bench, seed: int) -> Figures:
    """Largest difference of the outputs, and latencies over those of the original (worse of two batch sizes)."""
    structured = {"method": "structured_pruning", "pruning_ratio": 0.5, "importance": "magnitude_l1"}
    cut = bench.run("T5-cut", [structured], seed=seed, model=MODEL, evaluation=LATENCY)
    zeros = bench.run("T5-zeros", [{"method": "magnitude_pruning", "sparsity": 0.9}], seed=seed, model=MODEL, evaluation=LATENCY)
    images = np.load(bench.digits(seed))["x_test"][:200, None].astype(np.float32) / 255
    expected, got = (_outputs(model, images) for model in (_masked(MODEL).SerializeToString(), cut.file("model", "onnx").read_bytes()))
    return {
        "difference": float(np.abs(expected - got).max()),
        "cut": max(_latency_ratios(cut.report)),
        "zeros": min(_latency_ratios(zeros.report)),
    }


def _masked(path: Path) -> onnx.ModelProto:
    """The network with the half of the filters and neurons of every layer but the last zeroed that has the smallest Σ|w|."""
    model = onnx.load(path)
    tensors = {item.name: item for item in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    for node in layers[:-1]:
        weight, bias = (onnx.numpy_helper.to_array(tensors[name]).copy() for name in node.input[1:3])
        norms = np.abs(weight).reshape(len(weight), -1).sum(1)
        weakest = np.argsort(norms, kind="stable")[: len(norms) // 2]
        weight[weakest], bias[weakest] = 0, 0
        for name, array in zip(node.input[1:3], (weight, bias), strict=True):
            tensors[name].CopyFrom(onnx.numpy_helper.from_array(array, name))
    return model


def _outputs(model: bytes, images: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    outputs: np.ndarray = session.run(None, {session.get_inputs()[0].name: images})[0]
    return outputs


def _latency_ratios(report: dict) -> list[float]:
    return [1 / entry["speedup"] for entry in report["comparison"]["latencies"]]


CLAIMS = (
    Claim(
        "T5",
        removal,
        (
            Check(
                "cut against zeroed filters, 50 % by Σ|w|: largest difference of an output",
                "by definition",
                one("difference"),
                1e-4,
                at_most=True,
                every_seed=True,
            ),
            Check("latency with 50 % of the filters cut, over the original's", "faster", one("cut"), 0.8, at_most=True),
            Check("latency with 90 % of the weights zero, over the original's", "zeros are not faster in dense kernels", one("zeros"), 0.9),
        ),
        alone=True,
    ),
)
