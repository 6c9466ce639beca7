"""A sparse file gives back every bit, takes the room it says, and does not believe what contradicts itself."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from engine.architectures.build import build_architecture
from engine.contract.errors import EngineError
from engine.contract.metadata import ModelMetadata
from engine.formats.loading import load_network
from engine.formats.sparse import FORMAT, Recipe, decode_sparse, load_sparse, save_sparse, seeded_normal, signed


def bits(tensor):
    return tensor.reshape(-1).view(torch.uint8) if tensor.is_floating_point() else tensor


def same(left, right):
    return left.dtype == right.dtype and left.shape == right.shape and torch.equal(bits(left), bits(right))


@given(st.integers(0, 9), st.integers(0, 9), st.floats(0, 1), st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64]))
def test_every_tensor_comes_back_bit_by_bit(tmp_path_factory, rows, columns, density, dtype):
    generator = torch.Generator().manual_seed(rows * 10 + columns)
    tensor = (10 * torch.randn(rows, columns, generator=generator)).to(dtype)
    tensor[torch.rand(rows, columns, generator=generator) > density] = 0
    path = tmp_path_factory.mktemp("sparse") / "weights.safetensors"
    save_sparse(path, {"w": tensor, "scalar": torch.tensor(3)})
    state = load_sparse(path)
    assert same(state["w"], tensor)
    assert same(state["scalar"], torch.tensor(3))


def test_special_values_survive(tmp_path):
    tensor = torch.zeros(1000)
    tensor[:4] = torch.tensor([-0.0, float("nan"), float("-inf"), 1e-42])
    save_sparse(tmp_path / "w", {"w": tensor})
    assert same(load_sparse(tmp_path / "w")["w"], tensor)


def test_the_file_takes_one_bit_a_weight_and_four_bytes_a_kept_one(tmp_path):
    tensor = torch.zeros(100, 1000)
    tensor.view(-1)[::10] = 1.5
    save_sparse(tmp_path / "w", {"w": tensor})
    assert 0 <= (tmp_path / "w").stat().st_size - (100_000 // 8 + 4 * 10_000) < 600


def test_seeds_and_signs_take_bits_only(tmp_path):
    keep = torch.rand(50, 200, generator=torch.Generator().manual_seed(0)) < 0.3
    drawn = seeded_normal(7, (50, 200), 0.25)
    state = {
        "seeded": torch.where(keep, drawn * 1.7, 0.0),
        "signs": torch.where(keep, signed(drawn, 0.1) * 3.0, 0.0),
        "both": torch.where(keep, signed(drawn, 0.1), 0.0),
        "b": torch.ones(2),
    }
    recipes = {
        "seeded": Recipe(keep, "seeded", seed=7, deviation=0.25, scale=1.7),
        "signs": Recipe(keep, "signs", constant=0.1, scale=3.0),
        "both": Recipe(keep, "seeded", seed=7, deviation=0.25, constant=0.1),
    }
    save_sparse(tmp_path / "w", state, recipes)
    restored = load_sparse(tmp_path / "w")
    assert restored.keys() == state.keys()
    assert all(same(restored[name], state[name]) for name in state)
    assert (tmp_path / "w").stat().st_size < 3 * 10_000 / 8 + int(keep.sum()) / 8 + 1000


def test_the_seeded_stream_is_the_frozen_one():
    assert seeded_normal(0, (3,), 1.0).tolist() == pytest.approx([1.764052345967664, 0.4001572083672233, 0.9787379841057392])


@pytest.mark.parametrize(
    ("tensors", "about"),
    [
        ({"w.bitmask": torch.zeros(2, dtype=torch.uint8)}, {"encoding": "values", "shape": [4, 4], "dtype": "float32"}),
        ({"w.bitmask": torch.zeros(1, dtype=torch.uint8)}, {"encoding": "values", "shape": [10**5, 10**4], "dtype": "float32"}),
        (
            {"w.bitmask": torch.full((2,), 255, dtype=torch.uint8), "w.values": torch.ones(3)},
            {"encoding": "values", "shape": [4, 4], "dtype": "float32"},
        ),
        ({"w.bitmask": torch.full((2,), 255, dtype=torch.uint8)}, {"encoding": "magic", "shape": [4, 4], "dtype": "float32"}),
        ({"w.bitmask": torch.zeros(2, dtype=torch.uint8)}, {"encoding": "values", "shape": [4, 4], "dtype": "load"}),
    ],
)
def test_contradictions_are_refused(tmp_path, tensors, about):
    save_file(tensors, tmp_path / "w", metadata={"format": FORMAT, "tensors": json.dumps({"w": about})})
    with pytest.raises(EngineError) as caught:
        load_sparse(tmp_path / "w")
    assert caught.value.code == "model_invalid"


def test_a_sparse_file_is_read_as_the_weights_of_its_architecture(tmp_path):
    module, _ = build_architecture({"name": "lenet_300_100", "params": {"image_size": 8, "hidden": [16]}})
    state = {name: torch.where(tensor.abs() > 0.1, tensor, 0.0) for name, tensor in module.state_dict().items()}
    save_sparse(tmp_path / "w.safetensors", state)
    metadata = ModelMetadata(architecture={"name": "lenet_300_100", "params": {"image_size": 8, "hidden": [16]}})
    network = load_network(tmp_path / "w.safetensors", "safetensors", metadata, tmp_path)
    assert all(same(network.module.state_dict()[name], value) for name, value in state.items())


def test_other_files_are_refused(tmp_path):
    save_file(
        {"w.bitmask": torch.zeros(1)}, tmp_path / "w", metadata={"format": FORMAT, "tensors": json.dumps({"w": {"shape": [10**9, 10**9]}})}
    )
    with pytest.raises(EngineError, match="elements"):
        load_sparse(tmp_path / "w")
    (tmp_path / "w").write_bytes(b"\x00" * 100)
    with pytest.raises(EngineError, match="sparse"):
        load_sparse(tmp_path / "w")
    with pytest.raises(EngineError, match="format"):
        decode_sparse({}, {})
