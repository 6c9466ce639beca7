"""The builtin architectures: of the published size, trainable, and described without torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.architectures.build import build_architecture
from engine.architectures.spec import listing


def test_the_list_of_architectures_is_json() -> None:
    document = json.loads(json.dumps(listing()))
    assert {
        "resnet20",
        "lenet_300_100",
        "mobilenet_v1",
        "mobilenet_v2",
        "byte_transformer",
        "vgg16_bn",
        "densenet40",
        "vit_small_images",
    } <= {item["name"] for item in document}
    assert all(item["description"] and item["params_schema"]["properties"] for item in document)


KNOWN_PARAMETERS = {
    "densenet40": 1_019_722,
    "lenet_300_100": 266_610,
    "lenet_5": 61_706,
    "mobilenet_v1": 4_231_976,
    "mobilenet_v2": 3_504_872,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "vgg11_bn": 132_868_840,
    "vgg16_bn": 138_365_992,
}
"""Sizes as published with the architectures (or by torchvision, whose tensor names they have)."""


@pytest.mark.parametrize("name", KNOWN_PARAMETERS)
def test_architectures_have_the_published_size(name: str) -> None:
    with torch.device("meta"):
        module, _ = build_architecture(name)
    assert sum(parameter.numel() for parameter in module.parameters()) == KNOWN_PARAMETERS[name]


SMALL = {
    "byte_language_model": {"length": 6, "width": 8, "heads": 2, "depth": 1},
    "byte_transformer": {"length": 6, "width": 8, "heads": 2, "depth": 2, "num_classes": 4},
    "densenet40": {"depth": 7, "image_size": 16},
    "digit_cnn": {"channels": [4, 8], "hidden": 16, "in_channels": 2},
    "lenet_300_100": {"hidden": [8], "image_size": 8, "num_classes": 3},
    "lenet_5": {"image_size": 32, "in_channels": 3},
    "mobilenet_v1": {"width_multiplier": 0.25, "image_size": 32, "num_classes": 4, "stem": "cifar"},
    "mobilenet_v2": {"width_multiplier": 0.25, "image_size": 32, "num_classes": 4, "stem": "cifar"},
    "resnet8": {"width": 4, "num_classes": 7, "image_size": 16},
    "resnet18": {"stem": "cifar", "image_size": 16, "num_classes": 4, "in_channels": 1},
    "resnet50": {"image_size": 32, "num_classes": 4},
    "vgg11_bn": {"head": "small", "image_size": 32, "num_classes": 4},
    "vit_small_images": {"image_size": 8, "depth": 1, "width": 12, "heads": 2, "num_classes": 4},
}


@pytest.mark.parametrize("name", SMALL)
def test_architectures_run_and_train_with_other_parameters(name: str) -> None:
    torch.manual_seed(0)
    module, signature = build_architecture({"name": name, "params": SMALL[name]})
    shape = [size or 3 for size in signature.inputs[0].shape]
    given = torch.randn(shape) if signature.inputs[0].dtype == "float32" else torch.randint(0, 200, shape)
    logits = module.train()(given)
    assert logits.shape == (3, *signature.outputs[0].shape[1:])
    logits.square().sum().backward()
    assert [key for key, parameter in module.named_parameters() if parameter.grad is None] == []
    again, _ = build_architecture({"name": name, "params": SMALL[name]})
    assert not all(torch.equal(a, b) for a, b in zip(module.parameters(), again.parameters(), strict=True))


def test_same_seed_same_weights() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build_architecture({"name": "resnet8", "params": {"width": 4}})[0].state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def _bytes(text: str, length: int) -> torch.Tensor:
    return torch.tensor([list(text.encode().ljust(length, b"\0"))])


def test_a_byte_transformer_reads_a_text_however_far_it_is_filled_up() -> None:
    torch.manual_seed(0)
    options = {"width": 16, "heads": 2, "depth": 2, "num_classes": 3}
    short, _ = build_architecture({"name": "byte_transformer", "params": {**options, "length": 8}})
    long, _ = build_architecture({"name": "byte_transformer", "params": {**options, "length": 12}})
    state = short.state_dict()
    long.load_state_dict({**state, "pos_embed": torch.cat([state["pos_embed"], torch.randn(1, 4, 16)], 1)})
    torch.testing.assert_close(long.eval()(_bytes("grüße", 12)), short.eval()(_bytes("grüße", 8)))
    assert short(_bytes("", 8)).isfinite().all()


def test_a_byte_language_model_sees_no_byte_of_the_future() -> None:
    torch.manual_seed(0)
    module, _ = build_architecture({"name": "byte_language_model", "params": {"length": 8, "width": 16, "heads": 2, "depth": 2}})
    left, right = module.eval()(_bytes("abcdefgh", 8)), module(_bytes("abcdeXYZ", 8))
    torch.testing.assert_close(left[:, :5], right[:, :5])
    assert (left[:, 5:] - right[:, 5:]).abs().amax(dim=2).min() > 1e-4


TOY_SPEC = '''
"""A toy family."""
from engine.architectures.spec import Architecture, ArchitectureParams
from engine.networks.network import Signature, TensorSpec


class ToyParams(ArchitectureParams):
    """A bag of words."""

    words: int = 9

    def signature(self):
        return Signature((TensorSpec("tokens", (None, None), "int64"),), (TensorSpec("scores", (None, 3)),))


ARCHITECTURES = (Architecture("toy_words", "Toy", "toys", ToyParams, {}, "https://example.org"),)
'''
TOY_BUILD = "from torch import nn\n\ndef build(params):\n    return nn.EmbeddingBag(params.words, 3)\n"


def test_an_architecture_of_a_plug_in_is_listed_and_built(tmp_path: Path) -> None:
    family = tmp_path / "architectures" / "toys"
    family.mkdir(parents=True)
    for name, text in (("__init__", ""), ("spec", TOY_SPEC), ("build", TOY_BUILD)):
        (family / f"{name}.py").write_text(text)
    (tmp_path / "toy.json").write_text('{"name": "toy_words", "params": {"words": 4}}')
    command = [sys.executable, "-m", "engine", "inspect", str(tmp_path / "toy.json")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, "MODELPRESS_PLUGINS": str(tmp_path)})
    found = json.loads(done.stdout)
    assert (found["params_count"], found["signature"]["inputs"][0]["name"]) == (12, "tokens")
