"""Networks written as ONNX and safetensors: quiet, exact, of one file, and read back as they were."""

import copy
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors
import torch
from torch import nn

from engine.architectures.build import build_architecture
from engine.contract.errors import EngineError
from engine.contract.metadata import ModelMetadata
from engine.formats import load_network
from engine.formats.onnx.file import signature_of
from engine.formats.onnx.networks import ModuleNetwork
from engine.formats.safetensors.read import read_safetensors
from engine.formats.safetensors.write import write
from engine.networks import masks
from engine.networks.example_inputs import example_inputs
from engine.networks.network import Network, Signature, TensorSpec
from tests.engine.formats.onnx.exporting import export
from tests.engine.formats.onnx.graphs import BATCH, model, node, normal, run_reference
from tests.engine.formats.onnx.networks import CASES
from tests.engine.formats.onnx.test_importer import outputs, runtime_outputs


def imported(name: str, folder: Path, **how: object) -> Network:
    path = export(CASES[name].network(), CASES[name], folder / f"{name}.onnx", exporter="legacy", **how)  # type: ignore[arg-type]
    return load_network(path, "onnx", ModelMetadata(), folder)


@pytest.mark.parametrize("name", ["simple_cnn", "vit", "two_inputs", "lstm"])
def test_an_imported_network_is_written_and_computes_the_same(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = imported(name, tmp_path)
    network = source.with_module(copy.deepcopy(source.module))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network.write_onnx(tmp_path / "out.onnx")
    assert capfd.readouterr() == ("", "")
    proto = onnx.load_model(tmp_path / "out.onnx", load_external_data=False)
    assert [item.name for item in signature_of(proto).inputs] == [item.name for item in source.signature.inputs]
    assert [item.name for item in signature_of(proto).outputs] == [item.name for item in source.signature.outputs]
    assert all(item.shape[0] is None for item in signature_of(proto).inputs)
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.onnx"]
    assert len({item.name for item in proto.graph.node}) == len(proto.graph.node)
    assert b"site-packages" not in (tmp_path / "out.onnx").read_bytes()
    assert proto.producer_name == "modelpress"
    again = load_network(tmp_path / "out.onnx", "onnx", ModelMetadata(), tmp_path).module
    assert {key for key, _ in again.named_parameters()} == {key for key, _ in source.module.named_parameters()}
    for batch in (1, 5):
        inputs = CASES[name].inputs(batch, seed=8)
        for want, got in zip(outputs(source.module, inputs), runtime_outputs(tmp_path / "out.onnx", inputs), strict=True):
            np.testing.assert_allclose(got, want.numpy(), atol=1e-4, rtol=1e-4)


def test_the_batch_of_a_file_that_fixes_it_is_open_in_the_result(tmp_path: Path) -> None:
    source = imported("mobilenet", tmp_path, dynamic=False)
    assert source.signature.inputs[0].shape[0] == 2
    source.with_module(source.module).write_onnx(tmp_path / "out.onnx")
    inputs = CASES["mobilenet"].inputs(7)
    np.testing.assert_allclose(runtime_outputs(tmp_path / "out.onnx", inputs)[0], outputs(source.module, inputs)[0].numpy(), atol=1e-4)


def test_a_trained_network_is_written_in_eval_mode_with_its_masks_folded_in(tmp_path: Path) -> None:
    source = imported("simple_cnn", tmp_path, keep_norms=True)
    module = copy.deepcopy(source.module).train()
    keep = torch.rand(module.get_parameter("features.4.weight").shape) > 0.7
    masks.hold(module, {"features.4.weight": masks.Mask(keep)})
    module(*CASES["simple_cnn"].inputs(8)).square().sum().backward()
    source.with_module(module).write_onnx(tmp_path / "out.onnx")
    assert module.training
    assert masks.held(module)
    inputs = CASES["simple_cnn"].inputs(4, seed=2)
    np.testing.assert_allclose(
        runtime_outputs(tmp_path / "out.onnx", inputs)[0], outputs(module.eval(), inputs)[0].numpy(), atol=1e-4, rtol=1e-4
    )
    names = {item.name: onnx.numpy_helper.to_array(item) for item in onnx.load_model(tmp_path / "out.onnx").graph.initializer}
    assert np.count_nonzero(names["features.4.weight"]) == int(keep.sum())
    assert names["features.4.weight"].size == keep.numel()


def test_a_file_is_copied_byte_for_byte(tmp_path: Path) -> None:
    source = imported("mlp", tmp_path)
    source.write_onnx(tmp_path / "copy.onnx")
    assert (tmp_path / "copy.onnx").read_bytes() == (tmp_path / "mlp.onnx").read_bytes()
    source.write_onnx(tmp_path / "mlp.onnx")


def test_dimensions_that_are_open_stay_open(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)).eval()
    signature = Signature((TensorSpec("x", (None, 1, None, None)),), (TensorSpec("y", (None, 3)),))
    ModuleNetwork(signature, module).write_onnx(tmp_path / "out.onnx")
    for size in (9, 40):
        images = torch.randn(3, 1, size, size + 2)
        np.testing.assert_allclose(runtime_outputs(tmp_path / "out.onnx", (images,))[0], outputs(module, (images,))[0].numpy(), atol=1e-5)
    assert load_network(tmp_path / "out.onnx", "onnx", ModelMetadata(), tmp_path).module(torch.randn(2, 1, 30, 17)).shape == (2, 3)


class Unwritable(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nonzero(x).sum(0) if float(x.sum()) > 0 else x


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    signature = Signature((TensorSpec("x", (None, 3)),), (TensorSpec("y", (None, 3)),))
    with pytest.raises(EngineError) as caught:
        ModuleNetwork(signature, Unwritable()).write_onnx(tmp_path / "out.onnx")
    assert caught.value.code == "export_failed"
    assert "torch.onnx" not in caught.value.message, "the reason, not advice for the exporter's developers"
    assert "\x1b" not in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_numbers_may_stand_before_tensors(tmp_path: Path) -> None:
    """As JAX writes `0.5 * (1 + tanh(x))`; torch's exporter takes a number in the second place only."""
    operators = ("Add", "Mul", "Sub", "Div", "Max", "Min", "Pow", "Greater", "LessOrEqual", "Equal")
    constants = {"half": np.float32(0.5), "w": normal(3, 3, seed=1)}
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Abs", ["h"], ["a"])]
    for kind in operators:
        nodes.append(node(kind, ["half", "a"], [kind]))
        if kind in ("Greater", "LessOrEqual", "Equal"):
            nodes.append(node("Cast", [kind], [f"{kind}1"], to=onnx.TensorProto.FLOAT))
    parts = [f"{kind}1" if kind in ("Greater", "LessOrEqual", "Equal") else kind for kind in operators]
    proto = model([*nodes, node("Concat", parts, ["y"], axis=1)], {"x": [BATCH, 3]}, ["y"], constants)
    onnx.save_model(proto, tmp_path / "in.onnx")
    source = load_network(tmp_path / "in.onnx", "onnx", ModelMetadata(), tmp_path)
    source.with_module(source.module).write_onnx(tmp_path / "out.onnx")
    feed = {"x": normal(4, 3)}
    np.testing.assert_allclose(run_reference(onnx.load_model(tmp_path / "out.onnx"), feed)[0], run_reference(proto, feed)[0], atol=1e-5)


def test_safetensors_of_a_builtin_architecture_load_by_themselves(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, signature = build_architecture({"name": "resnet8", "params": {"width": 4, "num_classes": 3, "image_size": 16}})
    write(ModuleNetwork(signature, module), tmp_path / "w.safetensors")
    network = load_network(tmp_path / "w.safetensors", "safetensors", ModelMetadata(), tmp_path)
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(network.module(images), module.eval()(images), atol=0, rtol=0)
    assert network.signature == signature


def test_safetensors_of_a_changed_architecture_hold_what_it_became(tmp_path: Path) -> None:
    module, signature = build_architecture({"name": "resnet8", "params": {"width": 4}})
    narrow = copy.deepcopy(module)
    narrow.fc = nn.Linear(16, 4)
    write(ModuleNetwork(signature, narrow), tmp_path / "w.safetensors")
    network = load_network(tmp_path / "w.safetensors", "safetensors", ModelMetadata(), tmp_path)
    images = example_inputs(signature, 2)
    torch.testing.assert_close(network.module.eval()(*images), narrow.eval()(*images), atol=0, rtol=0)


@pytest.mark.parametrize("name", ["densenet", "tied_lm"])
def test_safetensors_of_an_imported_network_fit_the_module_of_its_onnx_file(name: str, tmp_path: Path) -> None:
    source = imported(name, tmp_path)
    changed = copy.deepcopy(source.module)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.mul_(1.5)
    write(source.with_module(changed), tmp_path / "w.safetensors")
    with safetensors.safe_open(str(tmp_path / "w.safetensors"), "pt") as file:
        assert '"in0"' in file.metadata()["modelpress.signature"]
    again = imported(name, tmp_path).module
    again.load_state_dict(read_safetensors(tmp_path / "w.safetensors"), strict=True)
    inputs = CASES[name].inputs(3)
    torch.testing.assert_close(outputs(again, inputs), outputs(changed, inputs), atol=0, rtol=0)


def test_half_precision_files_are_trained_in_single_and_keep_their_inputs(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float16)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gemm", ["x", "fc.weight"], ["y"], transB=1)],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT16, ["batch", 4])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT16, ["batch", 3])],
        [onnx.numpy_helper.from_array(weight, "fc.weight")],
    )
    onnx.save_model(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), tmp_path / "h.onnx")
    network = load_network(tmp_path / "h.onnx", "onnx", ModelMetadata(), tmp_path)
    assert network.signature.inputs[0].dtype == "float16"
    assert network.module.get_parameter("fc.weight").dtype == torch.float32
    x = torch.randn(5, 4).half()
    torch.testing.assert_close(network.module(x), x.float() @ torch.from_numpy(weight).float().T)
    network.with_module(network.module).write_onnx(tmp_path / "out.onnx")
    np.testing.assert_allclose(runtime_outputs(tmp_path / "out.onnx", (x,))[0], network.module(x).detach().numpy(), atol=1e-3)
