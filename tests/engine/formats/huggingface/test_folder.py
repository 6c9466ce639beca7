"""Folders of transformers become networks that compute the same, without a byte of them being run."""

import io
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import transformers

from engine.architectures.spec import read_architecture
from engine.contract.errors import EngineError
from engine.contract.metadata import ModelMetadata
from engine.files.magic import check_file, sniff
from engine.formats.loading import load_network, write_network
from engine.jobs.inspection import module_layers
from tests.engine.formats.onnx.files import zip_file

SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
IDS = torch.arange(24).reshape(3, 8) % 50
MASK = torch.ones_like(IDS)
MASK[1, 5:] = 0


def made(name: str) -> Any:
    """A small network with random weights, and what it is tried on."""
    torch.manual_seed(0)
    config: Any
    if name == "bert":
        config = transformers.BertConfig(**SMALL, vocab_size=50, **{"num_labels": 3})
        return transformers.BertForSequenceClassification(config).eval(), (IDS, MASK)
    if name == "gpt2":
        config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50, n_positions=16, bos_token_id=0, eos_token_id=0)
        return transformers.GPT2LMHeadModel(config).eval(), (IDS,)
    config = transformers.ViTConfig(**SMALL, image_size=16, patch_size=8, **{"num_labels": 4})
    return transformers.ViTForImageClassification(config).eval(), (torch.randn(3, 3, 16, 16),)


def folder(tmp_path: Path, model: Any, **options: Any) -> dict[str, bytes]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(tmp_path / "saved", **options)
    return {path.name: path.read_bytes() for path in sorted((tmp_path / "saved").iterdir())}


def load(tmp_path: Path, content: bytes, **metadata: Any) -> Any:
    path = tmp_path / "folder.zip"
    path.write_bytes(content)
    with path.open("rb") as file:
        check_file(file, "huggingface")
    return load_network(path, "huggingface", ModelMetadata.model_validate(metadata), tmp_path / "work")


@pytest.mark.parametrize("name", ["bert", "gpt2", "vit"])
def test_the_network_computes_what_transformers_computes(tmp_path: Path, name: str) -> None:
    model, given = made(name)
    content = zip_file({**folder(tmp_path, model), "tokenizer.json": b"{}"})
    assert sniff(content[:4096], None) == "huggingface"
    network = load(tmp_path, content, architecture={"name": f"transformers:{model.config.model_type}", "params": {"length": 8}})
    expected = model(*given).logits.detach()
    torch.testing.assert_close(network.module(*given), expected, atol=1e-5, rtol=1e-4)
    (path,) = write_network(network, "onnx", tmp_path / "out.onnx")
    feeds = {spec.name: array.numpy() for spec, array in zip(network.signature.inputs, given, strict=True)}
    np.testing.assert_allclose(onnxruntime.InferenceSession(str(path)).run(None, feeds)[0], expected, atol=1e-5)
    assert sum(item.numel() for item in network.module.parameters()) == sum(item.numel() for item in model.parameters())
    # GPT-2 holds its layers as products with transposed weights, which stay what they are.
    assert any(layer.prunable for layer in module_layers(network.module, given)) == (name != "gpt2")
    (again,) = write_network(network, "safetensors", tmp_path / "again.safetensors")
    reloaded = load_network(again, "safetensors", ModelMetadata(), tmp_path)
    torch.testing.assert_close(reloaded.module(*given), expected, atol=1e-5, rtol=1e-4)


def test_shards_are_put_together(tmp_path: Path) -> None:
    model, given = made("bert")
    members = folder(tmp_path, model, max_shard_size="10KB")
    shards = [name for name in members if name.endswith(".safetensors")]
    assert len(shards) > 1
    stated = {"architecture": {"name": "transformers:bert", "params": {"length": 8}}}
    network = load(tmp_path, zip_file(members, zipfile.ZIP_DEFLATED), **stated)
    torch.testing.assert_close(network.module(*given), model(*given).logits, atol=1e-5, rtol=1e-4)
    for wrong in ({key: data for key, data in members.items() if key != shards[0]}, {**members, "model.safetensors": members[shards[0]]}):
        with pytest.raises(EngineError) as caught:
            load(tmp_path, zip_file(wrong), **stated)
        assert caught.value.code == "model_invalid"


HOSTILE: dict[str, tuple[dict[str, bytes | None], str]] = {
    "code beside the weights": ({"modeling_bert.py": b"raise SystemExit"}, "unsafe_format"),
    "a pickle": ({"pytorch_model.bin": b"\x80\x04."}, "unsafe_format"),
    "arguments of a trainer": ({"training_args.bin": b"\x80\x04."}, "unsafe_format"),
    "anything else": ({"notes.exe": b""}, "model_invalid"),
    "no config": ({"config.json": None}, "model_invalid"),
    "no weights": ({"model.safetensors": None}, "model_invalid"),
    "a config that is no JSON": ({"config.json": b"{"}, "model_invalid"),
    "nested without end": ({"config.json": b"[" * 200_000}, "model_invalid"),
    "a list": ({"config.json": b"[1]"}, "model_invalid"),
    "other weights": ({"model.safetensors": b"\x02\0\0\0\0\0\0\0{}"}, "model_invalid"),
    "cut off weights": ({"model.safetensors": b"\xff\0\0\0\0\0\0\0{"}, "truncated_upload"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_else_lies_in_folders_is_refused(tmp_path: Path, name: str) -> None:
    changes, code = HOSTILE[name]
    members = {key: data for key, data in {**folder(tmp_path, made("bert")[0]), **changes}.items() if data is not None}
    with pytest.raises(EngineError) as caught:
        load(tmp_path, zip_file(members))
    assert caught.value.code == code


@pytest.mark.parametrize(
    "changes",
    [
        {"auto_map": {"AutoModel": "evil.Model"}},
        {"quantization_config": {"quant_method": "gptq"}},
        {"architectures": ["Trainer"]},
        {"architectures": ["GPT2LMHeadModel"]},
        {"architectures": ["PreTrainedModel"]},
        {"architectures": []},
        {"model_type": "os"},
        {"model_type": "../x"},
        {"hidden_size": 17},
        {"hidden_size": "x"},
    ],
)
def test_configs_that_name_something_else_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    members = folder(tmp_path, made("bert")[0])
    members["config.json"] = json.dumps({**json.loads(members["config.json"]), **changes}).encode()
    with pytest.raises(EngineError) as caught:
        load(tmp_path, zip_file(members))
    assert caught.value.code in ("architecture_invalid", "model_invalid")


def test_a_library_that_is_not_there_is_named_with_its_extra(tmp_path: Path) -> None:
    entry, params = read_architecture({"name": "timm:resnet18", "params": {"num_classes": 10}})
    assert (entry.family, entry.elsewhere, params.model_dump()["image_size"]) == ("timm", True, 224)
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, stream)
    (tmp_path / "a.pt").write_bytes(stream.getvalue())
    for name in ("timm:resnet18", "torchvision:resnet18"):
        library = name.partition(":")[0]
        with pytest.raises(EngineError) as caught:
            load_network(tmp_path / "a.pt", "pt", ModelMetadata(architecture=name), tmp_path)
        # Where the library is there, the file is not its network's.
        assert caught.value.code in ("architecture_invalid", "model_invalid")
        assert caught.value.code == "model_invalid" or f"pip install 'modelpress[{library}]'" in (caught.value.hint or "")
    for wrong in ("timm:hf-hub:x/y", "timm:../x", "timm:", "nothing:resnet18"):
        with pytest.raises(EngineError) as caught:
            read_architecture(wrong)
        assert caught.value.code == "architecture_invalid"
