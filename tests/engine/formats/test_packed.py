"""Bits and Huffman codes there and back, and what a contradictory file is answered."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from safetensors.numpy import load_file, save_file

import modelpress.runtime
from engine.contract.metadata import ModelMetadata
from engine.formats import huffman
from engine.formats.loading import load_network
from engine.formats.onnx.counting import count_graph
from engine.formats.onnx.packed import Indexed, pack, pack_bits, stored, unpacked
from engine.formats.packed import save_packed
from modelpress.runtime import ArtifactError, packed

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000])
def test_bits_come_back_exactly_and_take_their_share_of_a_byte(bits: int, count: int) -> None:
    numbers = RNG.integers(0, 2**bits, count).astype(np.uint8)
    found = pack_bits(numbers, bits)
    assert found.nbytes == -(-count * bits // 8)
    assert np.array_equal(packed.unpack_bits(found, bits, count), numbers)
    if bits == 1:
        assert np.array_equal(found, np.packbits(numbers)), "the first in the highest bit, as NumPy packs"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=300), st.integers(1, 70), st.integers(0, 6))
def test_huffman_codes_come_back_exactly(symbols: list[int], block: int, skew: int) -> None:
    numbers = np.array([symbol >> skew for symbol in symbols], np.uint8)
    code = huffman.encode(numbers, block=block)
    assert np.array_equal(packed.huffman_decode(code.indices, code.lengths, code.starts, block, len(numbers)), numbers)


def test_a_huffman_code_is_optimal_and_never_longer_than_fifteen_bits() -> None:
    counts = np.array([45, 13, 12, 16, 9, 5])
    assert huffman.code_lengths(counts).tolist() == [1, 3, 3, 3, 4, 4], "the example of Cormen et al., section 16.3"
    fibonacci = [1, 1]
    while len(fibonacci) < 40:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    lengths = huffman.code_lengths(np.array(fibonacci))
    assert lengths.max() <= packed.MOST_CODE_BITS
    assert np.sum(2.0 ** -lengths.astype(float)) <= 1
    shares = np.array([0.7, 0.15, 0.1, 0.05])
    numbers = RNG.choice(4, 50_000, p=shares).astype(np.uint8)
    best = float(shares @ [1, 2, 3, 3])
    assert 8 * huffman.encode(numbers).nbytes / len(numbers) == pytest.approx(best, abs=0.02)


def packable() -> tuple[onnx.ModelProto, dict[str, Indexed]]:
    """A convolution in one bit with a scale a channel, and matrices in two, four and eight bits; the second is mostly zero."""
    weights = {
        "a": Indexed(RNG.integers(0, 2, (7, 3, 3, 3)).astype(np.uint8), np.array([-0.5, 0.5], np.float32), normal(7), 0),
        "b": Indexed(RNG.choice([0, 1, 2], p=[0.02, 0.96, 0.02], size=(175, 11)).astype(np.uint8), np.array([-1, 0, 1], np.float32)),
        "c": Indexed(RNG.integers(0, 11, (11, 5)).astype(np.uint8), np.sort(normal(11))),
        "d": Indexed(RNG.integers(0, 200, (5, 4)).astype(np.uint8), np.sort(normal(200))),
    }
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["y"], pads=[1] * 4),
        helper.make_node("Flatten", ["y"], ["f"]),
        helper.make_node("MatMul", ["f", "b"], ["g"]),
        helper.make_node("MatMul", ["g", "c"], ["h"]),
        helper.make_node("MatMul", ["h", "d"], ["o"]),
    ]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in (("x", ["n", 3, 5, 5]), ("o", ["n", 4]))]
    constants = [numpy_helper.from_array(weight.values(), name) for name, weight in weights.items()]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), weights


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def outputs(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def test_the_runtime_unpacks_the_same_weights_and_counts_see_them(tmp_path: Path) -> None:
    model, weights = packable()
    x = normal(2, 3, 5, 5)
    expected, counts = outputs(model, x), count_graph(model)
    small = onnx.ModelProto()
    small.CopyFrom(model)
    pack(small, weights)
    onnx.checker.check_model(small, full_check=True)
    assert np.array_equal(outputs(small, x), expected)
    assert count_graph(small) == counts
    assert counts.nonzero_params_count < counts.params_count
    found = stored(small.graph)
    assert {name: item.bits for name, item in found.items()} == {"a": 1, "b": 2, "c": 4, "d": 8}
    assert all(np.array_equal(found[name].values, weight.values()) for name, weight in weights.items())
    assert np.array_equal(outputs(unpacked(small), x), expected)
    onnx.save(small, tmp_path / "small.onnx")
    network = load_network(tmp_path / "small.onnx", "onnx", ModelMetadata(), tmp_path)
    assert np.allclose(network.module(torch.from_numpy(x)).detach().numpy(), expected, atol=1e-4), "it can be trained again"
    changed = onnx.ModelProto()
    changed.CopyFrom(small)
    shift = next(node for node in changed.graph.node if node.op_type == "BitShift" and node.output[0].startswith("a."))
    shift.attribute[0].s = b"LEFT"
    assert set(stored(changed.graph)) == {"b", "c", "d"}, "what computes something else is none of these weights"
    old = onnx.ModelProto()
    old.CopyFrom(model)
    old.opset_import[0].version = 17
    with pytest.raises(ValueError, match="operator set 18"):
        pack(old, weights)


@pytest.mark.parametrize("entropy_coded", [False, True])
def test_the_file_of_packed_weights_runs_and_gives_them_back(tmp_path: Path, entropy_coded: bool) -> None:
    model, weights = packable()
    x = normal(2, 3, 5, 5)
    sizes = save_packed(tmp_path / "p.safetensors", model, weights, entropy_coded=entropy_coded)
    opened = modelpress.runtime.load(tmp_path / "p.safetensors", threads=2)
    for name, weight in weights.items():
        assert np.array_equal(opened.indices(name), weight.indices)
        assert np.array_equal(opened.weights()[name], weight.values())
    assert np.array_equal(opened.run({"x": x})[0], outputs(model, x))
    assert sizes["a"] == 24 + 8 + 28
    bits = 8 * (sizes["b"] - 12) / weights["b"].indices.size
    assert bits < 1 if entropy_coded else bits == pytest.approx(2, abs=0.01)


def test_a_tensor_of_nothing_but_zeros_is_stored(tmp_path: Path) -> None:
    model, weights = packable()
    weights["b"] = Indexed(np.ones((175, 11), np.uint8), np.array([-1, 0, 1], np.float32))
    save_packed(tmp_path / "p.safetensors", model, weights, entropy_coded=True)
    assert not packed.open(tmp_path / "p.safetensors").weights()["b"].any()


@pytest.mark.parametrize("how", ["shorter", "longer_code", "shape", "encoding", "index", "format", "cut", "starts"])
def test_a_file_that_contradicts_itself_is_refused(tmp_path: Path, how: str) -> None:
    model, weights = packable()
    path = tmp_path / "p.safetensors"
    save_packed(path, model, weights, entropy_coded=True)
    tensors = load_file(path)
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    metadata = header["__metadata__"]
    about = json.loads(metadata["tensors"])
    if how == "shorter":
        tensors["a.indices"] = tensors["a.indices"][:-1]
    elif how == "longer_code":
        tensors["b.lengths"] = np.full_like(tensors["b.lengths"], 1)
    elif how == "shape":
        about["b"]["shape"] = [2, 2]
    elif how == "encoding":
        about["a"]["encoding"] = "lzma"
    elif how == "index":
        tensors["d.levels"] = tensors["d.levels"][:3]
    elif how == "starts":
        tensors["b.gaps.starts"] = tensors["b.gaps.starts"] + 2**20
    metadata["tensors"] = json.dumps(about)
    save_file(tensors, path, metadata={**metadata, **({"format": "other/1"} if how == "format" else {})})
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ArtifactError):
        packed.open(path).weights()
