from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from engine.contract.errors import EngineError
from engine.methods.quantization import shift
from engine.methods.quantization.agreement import COMPARED_EXAMPLES
from engine.methods.quantization.spec import StaticQuantization
from engine.methods.quantization.static_quantization import apply
from engine.networks.network import Signature, TensorSpec
from tests.engine.conftest import make_split
from tests.engine.methods.quantization.checking import pair_sum
from tests.engine.small import save


def logits(path: Path, images: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": images})[0]


def constants(path: Path) -> dict[str, np.ndarray]:
    return {item.name: numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer}


def quantize(bench: Any, **params: Any) -> Path:
    return apply(bench.network, StaticQuantization(**params), bench.context).file(bench.context.work / "none.onnx")


def test_everything_runs_in_int8_and_accuracy_stays(bench: Callable[..., Any], cnn_onnx: Path) -> None:
    world = bench()
    path = quantize(world)
    operators = world.context.reported["operators"]
    assert operators["Conv"] == {"int8": 2, "float": 0}
    assert operators["Gemm"] == {"int8": 1, "float": 0}
    assert "BatchNormalization" not in operators
    stored = world.context.reported["weights_bytes"]
    assert sum(stored["after"].values()) < 0.35 * sum(stored["before"].values())
    test = make_split(500, 9)
    before, after = ((logits(p, test.images).argmax(1) == test.labels).mean() for p in (cnn_onnx, path))
    assert before > 0.8
    assert abs(after - before) < 0.02
    assert world.warned() == set()


def test_weights_have_one_scale_a_channel_or_one_for_all(bench: Callable[..., Any]) -> None:
    by_channel, by_tensor = (quantize(bench(), granularity=granularity) for granularity in ("channel", "tensor"))
    assert constants(by_channel)["4.weight_scale"].shape == (16,)
    assert constants(by_tensor)["4.weight_scale"].shape == ()


@pytest.mark.parametrize(
    ("params", "safe"),
    [({}, True), ({"target_cpu": "vnni"}, False), ({"target_cpu": "vnni", "reduce_range": True}, True), ({"reduce_range": False}, False)],
)
@pytest.mark.parametrize("has_vnni", [True, False])
def test_the_target_and_not_the_machine_decides_the_range_of_weights(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, params: dict[str, Any], safe: bool, has_vnni: bool
) -> None:
    monkeypatch.setattr("engine.measuring.environment.has_safe_int8", lambda: has_vnni)
    world = bench()
    stored = [array for array in constants(quantize(world, **params)).values() if array.dtype == np.int8 and array.ndim > 1]
    assert (max(pair_sum(array) for array in stored) <= 128) is safe
    assert world.context.reported["reduce_range"] is safe


def test_symmetric_activations_are_signed_around_zero(bench: Callable[..., Any]) -> None:
    points = {name: array for name, array in constants(quantize(bench(), symmetric=True)).items() if name.endswith("zero_point")}
    assert points
    assert all(array.dtype in (np.int8, np.int32) and not array.any() for array in points.values())
    unsigned = constants(quantize(bench()))
    assert any(array.dtype == np.uint8 for array in unsigned.values())


@pytest.mark.parametrize("pattern", ["conv1", "conv?", "re:conv.*", "4", "Conv"])
def test_ignored_nodes_stay_in_float(bench: Callable[..., Any], pattern: str) -> None:
    world = bench()
    path = quantize(world, ignore=[pattern])
    ignored = 2 if pattern in ("conv?", "re:conv.*", "Conv") else 1
    assert world.context.reported["operators"]["Conv"] == {"int8": 2 - ignored, "float": ignored}
    assert sum(array.dtype == np.float32 and array.ndim == 4 for array in constants(path).values()) == ignored
    assert world.warned() == {"operators_left_in_float"}


def test_a_pattern_that_names_nothing_is_told(bench: Callable[..., Any]) -> None:
    world = bench()
    quantize(world, ignore=["convolution"])
    assert "pattern_unmatched" in world.warned()


def test_only_training_examples_are_read_and_just_as_many_as_asked(bench: Callable[..., Any]) -> None:
    world = bench()
    quantize(world, calibration={"samples": 50, "batch_size": 8})
    looked_at = world.data.splits["train"].reads - (50 + 1 + COMPARED_EXAMPLES)
    assert looked_at == 50, "once more, to be compared with the evaluated ones"
    assert world.data.splits["test"].reads <= shift.EXAMPLES, "to be compared, and for nothing else"
    assert world.context.reported["calibration"] == {
        "split": "train",
        "examples_count": 50,
        "observer": "minmax",
        "batch_size": 8,
        "constant_tensors": [],
    }


def test_evaluated_examples_change_nothing_in_the_result(bench: Callable[..., Any]) -> None:
    """Ranges that were read off them would make the result look better than it is."""
    splits = [{"train": make_split(200, 1), "test": scaled(make_split(100, 2), factor, 0)} for factor in (1, 7)]
    files = [quantize(bench(splits=found)).read_bytes() for found in splits]
    assert files[0] == files[1]
    world = bench(splits={"validation": make_split(60, 3)})
    context = replace(world.context, evaluation_split="validation")
    with pytest.raises(EngineError) as caught:
        apply(world.network, StaticQuantization(), context)
    assert caught.value.code == "dataset_invalid"
    assert "validation is kept for the evaluation" in caught.value.message


def test_validation_examples_serve_where_there_are_no_training_examples(bench: Callable[..., Any]) -> None:
    world = bench(splits={"validation": make_split(60, 3), "test": make_split(60, 2)})
    quantize(world)
    assert world.context.reported["calibration"]["split"] == "validation"


def test_test_examples_are_never_calibrated_on(bench: Callable[..., Any]) -> None:
    with pytest.raises(EngineError, match="training examples") as caught:
        quantize(bench(splits={"test": make_split(60, 2)}))
    assert caught.value.code == "dataset_invalid"


def test_what_is_evaluated_is_never_calibrated_on_whatever_its_name(bench: Callable[..., Any]) -> None:
    world = bench(splits={"validation": make_split(60, 3), "test": make_split(60, 2)})
    world.context.evaluation_split = "validation"
    with pytest.raises(EngineError, match="validation is kept for the evaluation") as caught:
        quantize(world)
    assert caught.value.code == "dataset_invalid"
    assert world.data.splits["validation"].reads == world.data.splits["test"].reads == 0


def test_the_seed_decides_the_examples_and_nothing_else_varies(bench: Callable[..., Any]) -> None:
    files = [quantize(bench(seed=seed), calibration={"samples": 20}).read_bytes() for seed in (0, 0, 1)]
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("observer", ["percentile", "entropy", "mse"])
def test_observers_narrow_the_ranges(bench: Callable[..., Any], observer: str) -> None:
    wide = constants(quantize(bench()))
    narrow = constants(quantize(bench(), calibration={"observer": observer, "percentile": 99.0}))
    scales = [name for name in wide if name.endswith("_scale") and ".weight" not in name and ".bias" not in name]
    assert all(narrow[name] <= wide[name] * 1.0001 for name in scales)
    assert any(narrow[name] < wide[name] for name in scales)


def test_several_inputs(bench: Callable[..., Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((16, 8)).astype(np.float32), "v": rng.standard_normal((8, 8)).astype(np.float32)}
    nodes = [
        helper.make_node("MatMul", ["a", "w"], ["p"], "left"),
        helper.make_node("MatMul", ["b", "v"], ["q"], "right"),
        helper.make_node("Add", ["p", "q"], ["y"], "sum"),
    ]
    path = save(tmp_path / "two.onnx", nodes, weights, {"a": ["batch", 16], "b": ["batch", 8]}, {"y": ["batch", 8]})

    class Pairs:
        count, labels = 40, None

        def batch(self, indices: np.ndarray) -> tuple[dict[str, np.ndarray], None]:
            values = np.random.default_rng(1).standard_normal((40, 24)).astype(np.float32)[indices]
            return {"a": values[:, :16], "b": values[:, 16:]}, None

    signature = Signature((TensorSpec("a", (None, 16)), TensorSpec("b", (None, 8))), (TensorSpec("y", (None, 8)),))
    world = bench(path, signature=signature, splits={"train": Pairs()})
    result = quantize(world)
    assert world.context.reported["operators"]["Gemm"] == {"int8": 2, "float": 0}
    feed = Pairs().batch(np.arange(40))[0]
    outputs = [ort.InferenceSession(p, providers=["CPUExecutionProvider"]).run(None, feed)[0] for p in (path, result)]
    assert np.abs(outputs[0] - outputs[1]).max() < 0.05 * np.abs(outputs[0]).max()


def test_old_operator_sets_are_raised(bench: Callable[..., Any], tmp_path: Path) -> None:
    weights = {"w": np.random.default_rng(0).standard_normal((4, 1, 3, 3)).astype(np.float32)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "conv", kernel_shape=[3, 3])]
    path = save(tmp_path / "old.onnx", nodes, weights, {"x": ["batch", 1, 8, 8]}, {"y": ["batch", 4, 6, 6]}, opset=9)
    result = quantize(bench(path))
    assert {item.domain: item.version for item in onnx.load(result).opset_import}[""] == 13


def test_a_network_without_anything_to_quantize_is_refused(bench: Callable[..., Any], tmp_path: Path) -> None:
    path = save(
        tmp_path / "abs.onnx", [helper.make_node("Abs", ["x"], ["y"], "abs")], {}, {"x": ["batch", 1, 8, 8]}, {"y": ["batch", 1, 8, 8]}
    )
    with pytest.raises(EngineError) as caught:
        quantize(bench(path))
    assert caught.value.code == "nothing_quantized"
    assert "static_quantization" not in (caught.value.hint or ""), "what was just tried is no way out"


def test_a_quantized_network_is_refused(bench: Callable[..., Any]) -> None:
    with pytest.raises(EngineError) as caught:
        quantize(bench(quantize(bench())))
    assert caught.value.code == "already_quantized"


def test_a_fixed_batch_is_filled_up(bench: Callable[..., Any], tmp_path: Path, cnn_onnx: Path) -> None:
    model = onnx.load(cnn_onnx)
    for item in (*model.graph.input, *model.graph.output):
        item.type.tensor_type.shape.dim[0].dim_value = 8
    path = tmp_path / "fixed.onnx"
    onnx.save(model, path)
    signature = Signature((TensorSpec("x", (8, 1, 8, 8)),), (TensorSpec("y", (8, 5)),))
    world = bench(path, signature=signature)
    quantize(world, calibration={"samples": 13})
    assert world.context.reported["operators"]["Conv"]["int8"] == 2


def scaled(split: Any, factor: float, offset: float) -> Any:
    return replace(split, images=split.images * np.float32(factor) + np.float32(offset))


@pytest.mark.parametrize(
    ("factor", "offset", "differs"),
    [(1, 0, False), (1.3, 0, False), (0.5, 0, False), (255, 0, True), (1 / 255, 0, True), (1, 40, True), (1, -40, True), (3, 0, True)],
)
def test_examples_of_another_scale_or_offset_are_told(bench: Callable[..., Any], factor: float, offset: float, differs: bool) -> None:
    """As where one split was divided by 255 and the other was not."""
    world = bench(splits={"train": make_split(200, 1), "test": scaled(make_split(100, 2), factor, offset)})
    quantize(world)
    told = [event for event in world.events if getattr(event, "code", "") == "calibration_shifted"]
    assert bool(told) == differs
    if told:
        assert "'x'" in told[0].message
        assert list(told[0].details["inputs"]) == ["x"]
