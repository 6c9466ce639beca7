"""Architectures that are uploaded without weights: what the file may say, and that it stands for one definite network."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.contract.errors import EngineError
from engine.contract.metadata import ModelMetadata
from engine.files.architecture import MAX_BYTES, Description, read_description
from engine.files.magic import check_file, sniff
from engine.formats import load_network
from engine.networks.initialization import initialize


def load(folder: Path, document: Any) -> dict[str, torch.Tensor]:
    path = folder / "network.json"
    path.write_text(json.dumps(document))
    return load_network(path, "architecture", ModelMetadata(), folder).module.state_dict()


def test_a_seed_draws_the_same_weights_every_time_and_leaves_the_generator_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = load(tmp_path, {"name": "resnet8", "params": {"num_classes": 3}, "seed": 7})
    assert torch.equal(torch.rand(3), expected)
    again, other = (load(tmp_path, {"name": "resnet8", "params": {"num_classes": 3}, "seed": seed}) for seed in (7, 8))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
    assert first["fc.weight"].shape == (3, 64)


def test_a_name_alone_is_a_description_with_the_seed_0(tmp_path: Path) -> None:
    short, long = load(tmp_path, "lenet_5"), load(tmp_path, {"name": "lenet_5", "params": {}, "seed": 0})
    assert all(torch.equal(short[name], long[name]) for name in long)


def test_the_written_file_is_recognized_and_read_back() -> None:
    stated = Description.of({"name": "vgg11_bn", "params": {"image_size": 32}, "seed": 3})
    data = stated.to_bytes()
    assert sniff(data, None) == "architecture"
    check_file(io.BytesIO(data), "architecture")
    assert read_description(io.BytesIO(data)) == stated


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b'{"name": "resnet9"}', "resnet9"),
        (b'{"name": "resnet8", "params": {"num_classes": 0}}', "num_classes"),
        (b'{"name": "resnet8", "depth": 14}', "depth"),
        (b'{"name": "resnet8", "seed": -1}', "seed"),
        (b'{"name": "resnet8", "seed": true}', "seed"),
        (b'{"name": "resnet8"', "JSON"),
        (b"{" + b" " * MAX_BYTES + b"}", str(MAX_BYTES)),
        (b"{" + b'"a":{' * 40_000, str(MAX_BYTES)),
        (b'{"a":' * 10_000, "JSON"),
        (b"{}", "metadata.architecture"),
    ],
)
def test_what_is_no_description_is_refused_with_what_is_wrong(data: bytes, word: str) -> None:
    with pytest.raises(EngineError) as caught:
        check_file(io.BytesIO(data), "architecture")
    assert caught.value.code == "architecture_invalid"
    assert word in caught.value.message


def test_the_weights_can_be_drawn_anew_by_every_scheme(tmp_path: Path) -> None:
    (tmp_path / "network.json").write_text('{"name": "lenet_5"}')
    module = load_network(tmp_path / "network.json", "architecture", ModelMetadata(), tmp_path).module
    assert initialize(module, "kaiming_normal", 0) == []
