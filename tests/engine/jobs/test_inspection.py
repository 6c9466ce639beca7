"""What the inspection of an upload reports, and what it refuses."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.contract.metadata import DatasetMetadata, ModelMetadata
from engine.formats.onnx import runtime
from engine.jobs import dataset_inspection, inspection
from tests.engine.formats.onnx.exporting import export
from tests.engine.formats.onnx.files import LENET, npz_file, onnx_file, safetensors_file
from tests.engine.formats.onnx.graphs import BATCH, model, node, normal
from tests.engine.formats.onnx.networks import CASES


def inspect_model(*asked: Any) -> dict[str, Any]:
    return json.loads(inspection.inspect_model(*asked).model_dump_json())


def inspect_dataset(*asked: Any) -> dict[str, Any]:
    return json.loads(dataset_inspection.inspect_dataset(*asked).model_dump_json())


def write(tmp_path: Path, data: bytes) -> Path:
    (tmp_path / "upload").write_bytes(data)
    return tmp_path / "upload"


def test_a_trainable_onnx_model(tmp_path: Path) -> None:
    path = export(CASES["simple_cnn"].network(), CASES["simple_cnn"], tmp_path / "m.onnx", exporter="legacy", keep_norms=True)
    found = json.loads(json.dumps(inspect_model(path, "onnx", ModelMetadata(), tmp_path)))
    assert found["signature"]["inputs"] == [{"name": "in0", "shape": [None, 3, 16, 16], "dtype": "float32"}]
    assert (found["trainable"], found["untrainable_reason"]) == (True, None)
    assert found["operators"]["Conv"] == 2
    assert found["opset"] >= 13
    layers = {layer["name"]: layer for layer in found["layers"]}
    assert layers["features.0"] == {
        "name": "features.0",
        "type": "Conv2d",
        "input_shape": [None, 3, 16, 16],
        "output_shape": [None, 8, 16, 16],
        "params_count": 224,
        "macs_count": 8 * 27 * 256,
        "prunable": True,
        "quantizable": True,
        "unprunable_reason": None,
        "unquantizable_reason": None,
        "channels_prunable": True,
        "channels_reason": None,
        "removable_units_count": 7,
        "tied_layers": [],
    }
    assert not layers["features.1"]["prunable"]
    assert (layers["classifier.3"]["prunable"], layers["classifier.3"]["quantizable"]) == (False, True)
    assert sum(layer["params_count"] for layer in found["layers"]) == found["params_count"]
    assert sum(layer["macs_count"] for layer in found["layers"]) == found["macs_count"]


def test_weights_with_an_architecture(tmp_path: Path) -> None:
    found = inspect_model(write(tmp_path, safetensors_file()), "safetensors", ModelMetadata.model_validate(LENET), tmp_path)
    assert (found["params_count"], found["macs_count"], found["opset"]) == (433, 64 * 6 + 6 * 4 + 4 * 3, None)
    assert found["activation_bytes"] == 4 * (64 + 6 + 4), "each layer's input"
    assert [layer["type"] for layer in found["layers"]] == ["Flatten", "Linear", "ReLU", "Linear", "ReLU", "Linear"]


def test_a_model_that_cannot_be_trained_says_why_and_lists_its_weighted_nodes(tmp_path: Path) -> None:
    nodes = [node("Conv", ["x", "w", "b"], ["c"]), node("NonZero", ["c"], ["y"])]
    proto = model(nodes, {"x": [BATCH, 2, 5, 5]}, ["y"], {"w": normal(3, 2, 3, 3), "b": normal(3)}, types={"y": "i"})
    found = inspect_model(write(tmp_path, proto.SerializeToString()), "onnx", ModelMetadata(), tmp_path)
    assert found["trainable"] is False
    assert "NonZero" in found["untrainable_reason"]
    assert [(layer["type"], layer["params_count"], layer["macs_count"], layer["prunable"]) for layer in found["layers"]] == [
        ("Conv", 57, 3 * 9 * 18, False)
    ]


def test_a_quantized_model_is_not_trainable(tmp_path: Path) -> None:
    nodes = [
        node("DequantizeLinear", ["w", "s", "z"], ["wf"]),
        node("MatMul", ["x", "wf"], ["y"]),
    ]
    arrays = {"w": np.ones((3, 2), np.int8), "s": np.array(0.1, np.float32), "z": np.array(1, np.int8)}
    found = inspect_model(
        write(tmp_path, model(nodes, {"x": [BATCH, 3]}, ["y"], arrays).SerializeToString()), "onnx", ModelMetadata(), tmp_path
    )
    assert "quantized" in found["untrainable_reason"]
    assert (found["params_count"], found["nonzero_params_count"], found["macs_count"]) == (6, 0, 6)


@pytest.mark.parametrize(
    "proto",
    [
        model([node("Add", ["x", "b"], ["y"])], {"x": [BATCH, 3]}, ["y"], {"b": normal(4)}),
        model([node("NoSuchOperator", ["x"], ["y"])], {"x": [BATCH, 3]}, ["y"]),
        model([node("Relu", ["ghost"], ["y"])], {"x": [BATCH, 3]}, ["y"]),
    ],
    ids=["shapes", "operator", "dangling"],
)
@pytest.mark.parametrize("most_trainable", [limits.MAX_TRAINABLE_NODES, 0], ids=["optimized", "as it stands"])
def test_what_onnxruntime_does_not_load_is_invalid(
    proto: object, most_trainable: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_TRAINABLE_NODES", most_trainable)
    with pytest.raises(EngineError) as caught:
        inspect_model(write(tmp_path, proto.SerializeToString()), "onnx", ModelMetadata(), tmp_path)  # type: ignore[attr-defined]
    assert caught.value.code == "model_invalid"
    assert str(tmp_path) not in caught.value.message


def test_a_good_model_declared_as_another_format(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        inspect_model(write(tmp_path, onnx_file()), "safetensors", ModelMetadata.model_validate(LENET), tmp_path)
    assert caught.value.code in ("tensor_limit_exceeded", "model_invalid", "truncated_upload")


def fixed_height() -> bytes:
    """The declared height is open, but only 4 fits."""
    nodes = [node("Reshape", ["x", "s"], ["r"]), node("MatMul", ["r", "w"], ["y"])]
    arrays = {"s": np.array([0, 8, -1]), "w": normal(6, 3)}
    return model(nodes, {"x": [BATCH, 2, "height", 6]}, ["y"], arrays).SerializeToString()


def test_open_dimensions_can_be_stated(tmp_path: Path) -> None:
    path = write(tmp_path, fixed_height())
    assert "input_specs" in inspect_model(path, "onnx", ModelMetadata(), tmp_path)["untrainable_reason"]
    found = inspect_model(path, "onnx", ModelMetadata(input_specs=[{"name": "x", "shape": ["batch", 2, 4, 6]}]), tmp_path)
    assert found["signature"]["inputs"][0]["shape"] == [None, 2, 4, 6]
    assert (found["trainable"], found["macs_count"]) == (True, 8 * 6 * 3)


@pytest.mark.parametrize(
    "spec", [{"name": "z", "shape": [None, 2, 4, 6]}, {"name": "x", "shape": [None, 3, 4, 6]}, {"name": "x", "shape": [None, 2]}]
)
def test_stated_inputs_that_are_not_those_of_the_file(spec: dict, tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        inspect_model(write(tmp_path, fixed_height()), "onnx", ModelMetadata(input_specs=[spec]), tmp_path)
    assert caught.value.code == "shape_mismatch"


def test_a_dataset(tmp_path: Path) -> None:
    found = json.loads(
        json.dumps(inspect_dataset(write(tmp_path, npz_file()), "npz", DatasetMetadata(preprocessing={"scale": 0.1}), tmp_path))
    )
    assert found["splits"] == {"train": {"examples_count": 12, "labelled": True}, "test": {"examples_count": 6, "labelled": True}}
    assert found["columns"] == [{"name": "x", "shape": [8, 8], "dtype": "uint8"}, {"name": "y", "shape": [], "dtype": "uint8"}]
    assert (found["classes"], found["labels"]) == ([0, 1, 2], True)
    first = found["preview"]["train"][0]
    assert (first["index"], first["label"]) == (0, 0)
    assert len(first["inputs"]["x"]["values"]) == 8


def test_a_dataset_of_several_inputs_without_labels(tmp_path: Path) -> None:
    arrays = {"x_train.a": np.zeros((3, 2), np.int64), "x_train.b": np.ones((3, 2000), np.float32)}
    found = inspect_dataset(write(tmp_path, npz_file(arrays)), "npz", DatasetMetadata(), tmp_path)
    assert [column["name"] for column in found["columns"]] == ["x.a", "x.b"]
    assert (found["classes"], found["labels"]) == (None, False)
    assert "values" not in found["preview"]["train"][0]["inputs"]["x.b"]


def test_how_many_examples_a_class_has_and_which_stand_in_two_splits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(40, 3)), rng.normal(size=(20, 3))
    test[[4, 7]] = train[[31, 2]]
    arrays = {
        "x_train": train,
        "y_train": np.arange(40) % 2,
        "x_test": test,
        "y_test": np.full(20, 2),
        "classes": np.array(["a", "b", "c", "d"]),
    }
    found = inspect_dataset(write(tmp_path, npz_file(arrays)), "npz", DatasetMetadata(), tmp_path)
    assert found["histogram"] == {"train": {"a": 20, "b": 20, "c": 0, "d": 0}, "test": {"a": 0, "b": 0, "c": 20, "d": 0}}
    twice = inspect_dataset(
        write(tmp_path, npz_file(arrays | {"classes": np.array(["a", "b", "b", "d"])})), "npz", DatasetMetadata(), tmp_path
    )
    assert twice["histogram"]["train"] == {"a": 20, "b (1)": 20, "b (2)": 0, "d": 0}
    assert found["leaks"] == [{"splits": ["train", "test"], "examples_count": 2, "of_count": 20, "examples": [[31, 4], [2, 7]]}]
    assert "2 of the 20 test examples are the same, byte for byte, as train examples" in found["notes"][0]
    arrays["x_test"] = rng.normal(size=(20, 3))
    found = inspect_dataset(write(tmp_path, npz_file(arrays)), "npz", DatasetMetadata(), tmp_path)
    assert (found["leaks"], found["notes"]) == ([], [])


@pytest.mark.parametrize(
    ("arrays", "metadata", "word"),
    [
        ({"x_train": np.zeros((3, 2)), "y_train": np.zeros(4, int)}, {}, "targets of 4 examples"),
        ({"x_train": np.zeros((3, 2)), "x_test": np.zeros((3, 4))}, {}, "[4]"),
        ({"x_train.a": np.zeros((3, 2)), "x_train.b": np.zeros((4, 2))}, {}, "length"),
        ({"x_train.a": np.zeros((3, 2))}, {"preprocessing": {"b": {"std": 2}}}, "'b'"),
    ],
)
def test_a_dataset_that_contradicts_itself(arrays: dict, metadata: dict, word: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        inspect_dataset(write(tmp_path, npz_file(arrays)), "npz", DatasetMetadata.model_validate(metadata), tmp_path)
    assert caught.value.code == "dataset_invalid"
    assert word in caught.value.message


def test_what_onnxruntime_loads_only_with_its_optimizations_is_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = export(CASES["simple_cnn"].network(), CASES["simple_cnn"], tmp_path / "m.onnx", exporter="legacy", keep_norms=True)
    asked: list[bool] = []
    load = runtime.open_session

    def open_session(path: Path, *, threads: int, optimized: bool = True) -> object:
        asked.append(optimized)
        if not optimized:
            raise EngineError("model_invalid", "no kernel")
        return load(path, threads=threads)

    monkeypatch.setattr(limits, "MAX_TRAINABLE_NODES", 3)
    monkeypatch.setattr(runtime, "open_session", open_session)
    found = inspect_model(path, "onnx", ModelMetadata(), tmp_path)
    assert asked == [False, True]
    assert found["trainable"] is False


def test_a_graph_of_more_operators_than_are_made_trainable_is_described_in_time(tmp_path: Path) -> None:
    """The limit itself costs the time of an import; beyond it every node costs the same, and little."""
    count = limits.MAX_TRAINABLE_NODES + 2000
    nodes = [node("MatMul" if i % 2 else "Relu", [f"v{i}", *(["w"] if i % 2 else [])], [f"v{i + 1}"]) for i in range(count)]
    proto = model(nodes, {"v0": [BATCH, 4]}, [f"v{count}"], {"w": np.eye(4, dtype=np.float32)})
    started = time.process_time()
    found = inspect_model(write(tmp_path, proto.SerializeToString()), "onnx", ModelMetadata(), tmp_path)
    assert time.process_time() - started < count * 1e-3
    assert found["trainable"] is False
    assert f"{count} operators" in found["untrainable_reason"]
    assert (len(found["layers"]), found["params_count"], found["macs_count"]) == (count // 2, 16, 16 * count // 2)


def test_a_model_of_open_sizes_is_counted_for_a_size_that_is_stated(tmp_path: Path) -> None:
    weights = {"a": np.eye(3, 5, dtype=np.float32), "b": np.eye(5, 2, dtype=np.float32)}
    nodes = [node("MatMul", ["x", "a"], ["u"]), node("Relu", ["u"], ["v"]), node("MatMul", ["v", "b"], ["y"])]
    proto = model(nodes, {"x": [BATCH, "length", 3]}, ["y"], weights)
    found = inspect_model(write(tmp_path, proto.SerializeToString()), "onnx", ModelMetadata(), tmp_path)
    length = found["open_sizes"]["inputs"]["x"][0]
    assert found["open_sizes"] == {"inputs": {"x": [length, 3]}, "macs_count": length * (3 * 5 + 5 * 2)}
    assert found["activation_bytes"] == 4 * length * (3 + 5)
    closed = model(nodes, {"x": [BATCH, 7, 3]}, ["y"], weights)
    found = inspect_model(write(tmp_path, closed.SerializeToString()), "onnx", ModelMetadata(), tmp_path)
    assert "open_sizes" not in found
    assert (found["macs_count"], found["activation_bytes"]) == (7 * (3 * 5 + 5 * 2), 4 * 7 * (3 + 5))
