from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.contract.errors import EngineError
from engine.formats.onnx.counting import count_onnx
from engine.measuring.layer_table import layer_table
from engine.methods.quantization.spec import WeightOnlyQuantization
from engine.methods.quantization.weight_only_quantization import apply
from tests.engine.methods.quantization.checking import decibels, outputs
from tests.engine.small import save

RNG = np.random.default_rng(0)
FORMS: list[dict[str, Any]] = [
    {"weights": "int8"},
    {"weights": "int8", "group_size": 16},
    {"weights": "int8", "refinement": "gptq"},
    {"weights": "int4"},
    {"weights": "int4", "group_size": 16, "symmetric": True},
    {"weights": "int4", "refinement": "gptq"},
    {"weights": "int4", "activations": "int8"},
    {"weights": "float16"},
    {"weights": "bfloat16"},
]
LEAST = {"int8": 35.0, "int4": 12.0, "float16": 60.0, "bfloat16": 40.0}


def weight(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)


class Examples:
    """Token ids and images."""

    count, labels = 12, None

    def __init__(self, feed: dict[str, np.ndarray]) -> None:
        self.feed = feed

    def batch(self, indices: np.ndarray) -> tuple[dict[str, np.ndarray], None]:
        return {name: value[indices] for name, value in self.feed.items()}, None


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """Every kind of layer with weights: an embedding, an LSTM, convolutions with groups and without, a transposed one, MatMul and Gemm."""
    weights = {
        "words.weight": weight(50, 32),
        "lstm.w": weight(1, 32, 32),
        "lstm.r": weight(1, 32, 8),
        "lin.weight": weight(8, 24),
        "conv.weight": weight(16, 3, 3, 3),
        "deep.weight": weight(16, 1, 3, 3),
        "up.weight": weight(16, 4, 2, 2),
        "fc.weight": weight(10, 4 * 16 * 16 + 24),
        "fc.bias": weight(1, 10)[0],
        "size": np.array([0, -1], np.int64),
        "axes": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["words.weight", "ids"], ["e"], "words"),
        helper.make_node("Transpose", ["e"], ["t"], "order", perm=[1, 0, 2]),
        helper.make_node("LSTM", ["t", "lstm.w", "lstm.r"], ["", "last"], "lstm", hidden_size=8),
        helper.make_node("Squeeze", ["last", "zero_axis"], ["h"], "squeeze"),
        helper.make_node("MatMul", ["h", "lin.weight"], ["l"], "lin"),
        helper.make_node("Conv", ["image", "conv.weight"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c", "deep.weight"], ["d"], "deep", pads=[1, 1, 1, 1], group=16),
        helper.make_node("ConvTranspose", ["d", "up.weight"], ["u"], "up", strides=[2, 2]),
        helper.make_node("Reshape", ["u", "size"], ["flat"], "flatten"),
        helper.make_node("Concat", ["flat", "l"], ["all"], "both", axis=1),
        helper.make_node("Gemm", ["all", "fc.weight", "fc.bias"], ["y"], "fc", transB=1, alpha=0.5, beta=2.0),
    ]
    weights["zero_axis"] = np.array([0], np.int64)
    del weights["axes"]
    folder = tmp_path_factory.mktemp("mixed")
    path = save(folder / "mixed.onnx", nodes, weights, {"ids": ["batch", 6], "image": ["batch", 3, 8, 8]}, {"y": ["batch", 10]}, opset=17)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    onnx.save(model, path)
    feed: dict[str, np.ndarray] = {"ids": RNG.integers(0, 50, (12, 6)), "image": RNG.standard_normal((12, 3, 8, 8)).astype(np.float32)}
    return path, feed


def stored(path: Path) -> dict[str, onnx.TensorProto]:
    return {item.name: item for item in onnx.load(path).graph.initializer}


def run(bench: Callable[..., Any], path: Path, feed: dict[str, np.ndarray], **params: Any) -> tuple[Path, Any]:
    world = bench(path, splits={"train": Examples(feed)})
    return apply(world.network, WeightOnlyQuantization(**params), world.context).file(world.context.work / "none.onnx"), world


@pytest.mark.parametrize("params", FORMS, ids=lambda params: "-".join(str(value) for value in params.values()))
def test_every_layer_with_weights_is_stored_small_and_the_answers_stay(
    bench: Callable[..., Any], mixed: tuple[Path, dict[str, np.ndarray]], params: dict[str, Any]
) -> None:
    path, feed = mixed
    found, world = run(bench, path, feed, **params)
    before, after = outputs(path, feed), outputs(found, feed)
    assert decibels(before, after) > LEAST[params["weights"]]
    wide = [
        name
        for name, item in stored(found).items()
        if item.data_type == TensorProto.FLOAT and np.prod(item.dims) >= 64 and "scale" not in name
    ]
    assert wide == []
    assert len(world.context.reported["weights_by_form"]) >= (1 if "float" in params["weights"] else 2)
    assert sum(world.context.reported["weights_by_form"].values()) == 8
    assert world.warned() == set()


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_counts_and_bits_of_layers_are_those_of_the_network(
    bench: Callable[..., Any], mixed: tuple[Path, dict[str, np.ndarray]], weights: str
) -> None:
    path, feed = mixed
    found, _ = run(bench, path, feed, weights=weights)
    before, after = count_onnx(path), count_onnx(found)
    assert (after.params_count, after.macs_count) == (before.params_count, before.macs_count)
    rows = {row.name: row for row in layer_table(path, found)}
    packed = {"words", "lin", "fc"}
    for name, row in rows.items():
        assert row.after is not None, name
        assert row.after.params_count == row.before.params_count, name
        assert row.after.bits == (4 if weights == "int4" and name in packed else 8), name
    assert rows["words"].after is not None
    assert rows["words"].after.bytes == 50 * 32 * (4 if weights == "int4" else 8) // 8


def test_a_float_value_outside_of_half_precision_stays_wide_and_is_named(bench: Callable[..., Any], tmp_path: Path) -> None:
    large = weight(16, 16)
    large[0, 0] = 1e5
    nodes = [helper.make_node("MatMul", ["x", "a"], ["h"], "a"), helper.make_node("MatMul", ["h", "b"], ["y"], "b")]
    path = save(tmp_path / "large.onnx", nodes, {"a": large, "b": weight(16, 16)}, {"x": ["batch", 16]}, {"y": ["batch", 16]})
    feed = {"x": RNG.standard_normal((12, 16)).astype(np.float32)}
    found, world = run(bench, path, feed, weights="float16")
    assert world.warned() == {"weights_kept_wide"}
    assert world.context.reported["kept_wide"] == {"a": "out of the range of float16"}
    assert decibels(outputs(path, feed), outputs(found, feed)) > 60
    found, world = run(bench, path, feed, weights="bfloat16")
    assert world.warned() == set()


@pytest.mark.parametrize(
    "params", [{"weights": "int8"}, {"weights": "int8", "refinement": "gptq"}, {"weights": "int4"}, {"weights": "float16"}]
)
def test_an_embedding_that_is_the_last_layer_too_is_stored_small(bench: Callable[..., Any], tmp_path: Path, params: dict[str, Any]) -> None:
    table = weight(64, 32)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"], "look"),
        helper.make_node("Transpose", ["table"], ["t"], "turn", perm=[1, 0]),
        helper.make_node("MatMul", ["e", "t"], ["y"], "score"),
    ]
    path = save(tmp_path / "tied.onnx", nodes, {"table": table}, {"ids": ["batch", 4]}, {"y": ["batch", 4, 64]}, opset=17)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    onnx.save(model, path)
    feed = {"ids": RNG.integers(0, 64, (12, 4))}
    found, _ = run(bench, path, feed, **params)
    assert decibels(outputs(path, feed), outputs(found, feed)) > 12
    # For 4 bits the runtime has operators of its own for either use, which read no common form (two numbers share a byte of one of them).
    assert sum(np.prod(item.dims) >= 64 * 32 for item in stored(found).values()) == 1
    assert found.stat().st_size < 0.75 * path.stat().st_size


@pytest.mark.parametrize("params", [{"weights": "int8"}, {"weights": "int4"}, {"weights": "float16"}])
def test_tables_of_whole_numbers_and_vectors_stay_as_they_are(bench: Callable[..., Any], tmp_path: Path, params: dict[str, Any]) -> None:
    table, vector = RNG.integers(-(2**40), 2**40, (64, 16)), weight(1, 512)[0]
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["found"], "whole"),
        helper.make_node("Cast", ["found"], ["as_float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Gather", ["vector", "ids"], ["v"], "numbers"),
        helper.make_node("Unsqueeze", ["v", "last"], ["u"], "unsqueeze"),
        helper.make_node("Mul", ["as_float", "u"], ["exact"], "mul"),
        helper.make_node("MatMul", ["u", "w"], ["y"], "product"),
    ]
    constants = {"table": table, "vector": vector, "last": np.array([-1]), "w": weight(1, 256)}
    outputs_of = {"y": ["batch", 256], "exact": ["batch", 16]}
    path = save(tmp_path / "whole.onnx", nodes, constants, {"ids": ["batch"]}, outputs_of, opset=17)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    onnx.save(model, path)
    found, _ = run(bench, path, {"ids": RNG.integers(0, 64, 12)}, **params)
    kept = stored(found)
    np.testing.assert_array_equal(numpy_helper.to_array(kept["table"]), table)
    np.testing.assert_array_equal(numpy_helper.to_array(kept["vector"]), vector)
    assert "w" not in kept, "the matrix is stored small"


def test_weights_inside_of_branches_are_stored_small(bench: Callable[..., Any], tmp_path: Path) -> None:
    def branch(name: str) -> onnx.GraphProto:
        constant = numpy_helper.from_array(weight(16, 16), f"{name}.weight")
        node = helper.make_node("MatMul", ["x", f"{name}.weight"], [f"{name}_y"], f"{name}_product")
        return helper.make_graph(
            [node], name, [], [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, ["batch", 16])], [constant]
        )

    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], "sum", keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["c"], "greater"),
        helper.make_node("If", ["c"], ["y"], "if", then_branch=branch("a"), else_branch=branch("b")),
    ]
    path = save(tmp_path / "if.onnx", nodes, {"zero": np.zeros((), np.float32)}, {"x": ["batch", 16]}, {"y": ["batch", 16]})
    for params in ({"weights": "int8"}, {"weights": "int4"}):
        for sign in (1, -1):
            feed = {"x": sign * np.abs(RNG.standard_normal((12, 16)).astype(np.float32))}
            found, world = run(bench, path, feed, **params)
            assert decibels(outputs(path, feed), outputs(found, feed)) > LEAST[params["weights"]] - 2
        assert sum(world.context.reported["weights_by_form"].values()) == 2


def test_ignored_weights_stay_and_nothing_is_refused(bench: Callable[..., Any], mixed: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, feed = mixed
    found, _ = run(bench, path, feed, weights="int4", ignore=["fc", "Conv"])
    kept = {
        name
        for name, item in stored(found).items()
        if item.data_type == TensorProto.FLOAT and np.prod(item.dims) >= 64 and "scale" not in name
    }
    assert {name.split(".")[0] for name in kept} == {"fc", "conv", "deep"}
    with pytest.raises(EngineError) as caught:
        run(bench, path, feed, ignore=["*"])
    assert caught.value.code == "nothing_quantized"
    with pytest.raises(EngineError) as caught:
        run(bench, found, feed)
    assert caught.value.code == "already_quantized"


def test_a_weight_that_is_read_in_two_ways_is_stored_once(bench: Callable[..., Any], tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "a"),
        helper.make_node("Gemm", ["h", "w"], ["g"], "b", transB=1),
        helper.make_node("Add", ["g", "w"], ["y"], "c"),
    ]
    path = save(tmp_path / "shared.onnx", nodes, {"w": weight(12, 12)}, {"x": [12, 12]}, {"y": [12, 12]})
    feed = {"x": RNG.standard_normal((12, 12)).astype(np.float32)}
    for params in ({"weights": "int8", "refinement": "gptq"}, {"weights": "int4"}, {"weights": "float16"}):
        found, _ = run(bench, path, feed, **params)
        assert decibels(outputs(path, feed), outputs(found, feed)) > 30
        assert sum(np.prod(item.dims) >= 144 for item in stored(found).values()) == 1


@pytest.mark.parametrize(
    "params", [form for form in FORMS if "float" not in form["weights"]], ids=lambda form: "-".join(map(str, form.values()))
)
def test_weights_that_stand_for_zero_are_counted_as_zero(
    bench: Callable[..., Any], mixed: tuple[Path, dict[str, np.ndarray]], tmp_path: Path, params: dict[str, Any]
) -> None:
    """Each weight is one of three numbers, which every form holds exactly; zero is stored as the zero point of its group."""
    path, feed = mixed
    model = onnx.load(path)
    for item in model.graph.initializer:
        if item.data_type == TensorProto.FLOAT and len(item.dims) > 1:
            values = np.sign(numpy_helper.to_array(item)) * (np.abs(numpy_helper.to_array(item)) > numpy_helper.to_array(item).std())
            item.CopyFrom(numpy_helper.from_array(values.astype(np.float32), item.name))
    onnx.save(model, tmp_path / "thin.onnx")
    found, _ = run(bench, tmp_path / "thin.onnx", feed, **{**params, "refinement": "nearest"})
    before, after = count_onnx(tmp_path / "thin.onnx"), count_onnx(found)
    assert before.nonzero_params_count is not None
    assert before.params_count is not None
    assert before.nonzero_params_count < 0.5 * before.params_count
    assert after == before
    for row in layer_table(tmp_path / "thin.onnx", found):
        assert row.after is not None
        assert row.after.sparsity == pytest.approx(row.before.sparsity)
        assert row.after.sparsity > 0.5
