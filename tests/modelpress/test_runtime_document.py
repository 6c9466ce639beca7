"""The examples of docs/runtime.md run as they stand, with numpy and onnxruntime alone, on files of the names that they give."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engine.formats.onnx.packed import Indexed
from engine.formats.packed import save_packed
from tests.engine.small import save
from tests.modelpress.alone import run_alone

TEXT = (Path(__file__).parents[2] / "docs" / "runtime.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
IMAGES = 'import numpy\nimages = numpy.random.default_rng(0).standard_normal((20, 4)).astype("float32")\n'
RNG = np.random.default_rng(0)


def test_the_examples_of_early_exits(tmp_path: Path) -> None:
    weights = {name: RNG.standard_normal((4, 4)).astype(np.float32) for name in "abc"}
    first = [
        helper.make_node("MatMul", ["input", "a"], ["logits"]),
        helper.make_node("ReduceMax", ["logits"], ["sure"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["input", "b"], ["h"]),
    ]
    save(
        tmp_path / "s1.onnx",
        first,
        {"a": weights["a"], "b": weights["b"]},
        {"input": ["n", 4]},
        {"logits": ["n", 4], "sure": ["n"], "h": ["n", 4]},
    )
    second = [
        helper.make_node("MatMul", ["h", "c"], ["logits"]),
        helper.make_node("ReduceMax", ["logits"], ["sure"], axes=[1], keepdims=0),
    ]
    save(tmp_path / "s2.onnx", second, {"c": weights["c"]}, {"h": ["n", 4]}, {"logits": ["n", 4], "sure": ["n"]})
    files = {f"stage {k}": f"s{k}.onnx" for k in (1, 2)}
    manifest = {
        "modelpress": "early_exit",
        "version": 1,
        "files": {key: {"name": name, "sha256": hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()} for key, name in files.items()},
        "inputs": ["input"],
        "outputs": ["logits"],
        "batch_axes": {"input": 0, "h": 0},
        "stages": [{"file": "stage 1", "takes": ["input"], "gives": ["h"]}, {"file": "stage 2", "takes": ["h"], "gives": []}],
        "macs_counts": [16, 48],
        "budgets": [{"budget": 0.2, "thresholds": [-1e9]}, {"budget": 0.35, "thresholds": [0.5]}],
    }
    (tmp_path / "step0-exits.json").write_text(json.dumps(manifest))
    look = "\nassert answer.outputs['logits'].shape == (20, 4)\nprint(answer.macs_count)"
    assert float(run_alone(IMAGES + EXAMPLES[0] + EXAMPLES[1] + look, tmp_path)) == 48, "the last answer of any time is the whole network's"


def test_the_examples_of_packed_weights(tmp_path: Path) -> None:
    weight = Indexed(RNG.integers(0, 3, (4, 5)).astype(np.uint8), np.array([-1, 0, 1], np.float32))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("input", 4), ("o", 5))]
    stored = [numpy_helper.from_array(weight.values(), "fc.weight")]
    graph = helper.make_graph([helper.make_node("MatMul", ["input", "fc.weight"], ["o"])], "small", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    save_packed(tmp_path / "step0-packed.safetensors", model, {"fc.weight": weight}, entropy_coded=True)
    look = "\n(output,) = network.run({'input': images})\nprint(network.bits['fc.weight'], *output.shape)"
    assert run_alone(f"{IMAGES}import modelpress.runtime\n{EXAMPLES[2]}{look}", tmp_path) == "2 20 5\n"
    assert len(EXAMPLES) == 3
