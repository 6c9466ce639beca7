"""The same network is the same file, byte for byte, in every format that has a header with metadata."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from safetensors import safe_open
from safetensors.numpy import save_file

from engine.formats.huggingface.write import write as write_folder
from engine.formats.onnx.networks import ModuleNetwork
from engine.formats.onnx.packed import Indexed
from engine.formats.packed import save_packed
from engine.formats.safetensors.header import sort_metadata
from engine.formats.safetensors.write import write
from engine.formats.sparse import save_sparse
from tests.engine.conftest import cnn, signature

TIMES = 12
"""Two keys come in the same order every time with a chance of 1 in 2,000."""


def packed(path: Path) -> None:
    weights = {"w": Indexed(np.arange(64, dtype=np.uint8).reshape(8, 8) % 2, np.array([-1, 1], np.float32))}
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 8]) for name in "xy"]
    constants = [numpy_helper.from_array(weights["w"].values(), "w")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], constants)
    save_packed(path, helper.make_model(graph), weights, entropy_coded=True)


def sparse(path: Path) -> None:
    save_sparse(path, {"a": torch.eye(40), "b": torch.ones(3)})


def whole(path: Path, into: Callable[..., object] = write) -> None:
    torch.manual_seed(0)
    into(ModuleNetwork(signature(), cnn().eval()), path)


@pytest.mark.parametrize("save", [packed, sparse, whole, lambda path: whole(path, write_folder)])
def test_a_network_that_is_written_again_gives_the_same_bytes(save: Callable[[Path], None], tmp_path: Path) -> None:
    found = set()
    for _ in range(TIMES):
        save(tmp_path / "file")
        found.add((tmp_path / "file").read_bytes())
    assert len(found) == 1


def test_sorting_changes_the_order_of_the_metadata_alone(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    tensors = {'ä\\"\x07\n': np.arange(5.0), "b": np.ones((2, 3), np.int8)}
    metadata = {name: f'{name} é \u2028 \x1f \\ / "' for name in "zyxabc"}
    save_file(tensors, path, metadata)
    before = path.read_bytes()
    sort_metadata(path)
    after = path.read_bytes()
    assert len(after) == len(before)
    assert sorted(after) == sorted(before)
    with safe_open(path, "np") as file:
        assert file.metadata() == metadata
        assert all(np.array_equal(file.get_tensor(name), value) for name, value in tensors.items())
