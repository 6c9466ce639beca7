"""Networks as torch's exporters write them: imported, they compute the same, train, and can be pruned."""

import copy
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from engine.formats.onnx.file import read_model
from engine.formats.onnx.importer.rebuild import build_module
from tests.engine.formats.onnx.exporting import export
from tests.engine.formats.onnx.graphs import BATCH, assert_same, model, node, normal, run_imported, run_reference
from tests.engine.formats.onnx.networks import CASES

DYNAMO = ("simple_cnn", "mobilenet", "vit", "torch_transformer", "tied_lm", "audio", "lstm")
"""Cases that are exported by the current exporter too; it takes a second each."""
VARIANTS = [(name, "legacy") for name in CASES] + [(name, "dynamo") for name in DYNAMO]

Exported = Callable[..., Path]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Exports a case once."""
    folder = tmp_path_factory.mktemp("exported")

    @functools.cache
    def run(name: str, exporter: str, dynamic: bool = True, keep_norms: bool = False, opset: int | None = None) -> Path:
        case = CASES[name]
        path = folder / f"{name}-{exporter}-{dynamic}-{keep_norms}-{opset}.onnx"
        return export(case.network(), case, path, exporter=exporter, dynamic=dynamic, keep_norms=keep_norms, opset=opset)

    return run


def outputs(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    with torch.no_grad():
        result = module(*inputs)
    return list(result) if isinstance(result, tuple) else [result]


def runtime_outputs(path: Path, inputs: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {item.name: value.numpy() for item, value in zip(session.get_inputs(), inputs, strict=True)})


@pytest.mark.parametrize(("name", "exporter"), VARIANTS)
def test_import_computes_what_onnxruntime_does_at_any_batch(name: str, exporter: str, exported: Exported) -> None:
    path = exported(name, exporter)
    module = build_module(read_model(path))
    for batch in (2, 5):
        inputs = CASES[name].inputs(batch, seed=3)
        for want, got in zip(runtime_outputs(path, inputs), outputs(module, inputs), strict=True):
            np.testing.assert_allclose(got.numpy(), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "exporter"), [*((name, "legacy") for name in CASES), ("vit", "dynamo"), ("torch_transformer", "dynamo")])
def test_batch_of_the_exported_example_is_not_baked_in(name: str, exporter: str, exported: Exported) -> None:
    """The file was exported with a fixed batch of two; the original network says what it computes for others."""
    module = build_module(read_model(exported(name, exporter, dynamic=False)))
    for batch in (1, 2, 5):
        inputs = CASES[name].inputs(batch, seed=4)
        for want, got in zip(outputs(CASES[name].network(), inputs), outputs(module, inputs), strict=True):
            torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("opset", [9, 11, 13, 15, 17])
def test_older_opsets(opset: int, exported: Exported) -> None:
    for name in ("mobilenet", "token_mlp") if opset < 12 else ("mobilenet", "token_mlp", "vit", "audio"):
        module = build_module(read_model(exported(name, "legacy", opset=opset)))
        inputs = CASES[name].inputs(3, seed=5)
        torch.testing.assert_close(outputs(module, inputs), outputs(CASES[name].network(), inputs), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["mlp", "simple_cnn", "resnet", "mobilenet", "densenet"])
def test_layers_keep_their_names_and_train(name: str, exported: Exported) -> None:
    """Exported with the normalizations kept, where they would be folded into the convolutions."""
    original = CASES[name].network()
    module = build_module(read_model(exported(name, "legacy", keep_norms=True)))
    trained = {key for key, _ in original.named_parameters()}
    assert {key for key, _ in module.named_parameters()} == trained
    assert {key: type(module.get_submodule(key)) for key, layer in original.named_modules() if list(layer.parameters(recurse=False))} == {
        key: type(layer) for key, layer in original.named_modules() if list(layer.parameters(recurse=False))
    }
    inputs = CASES[name].inputs(6)
    module.train()(*inputs).square().sum().backward()
    assert [key for key, parameter in module.named_parameters() if parameter.grad is None] == []


def test_batch_normalization_follows_the_mode(exported: Exported) -> None:
    module = build_module(read_model(exported("simple_cnn", "legacy", keep_norms=True)))
    inputs = CASES["simple_cnn"].inputs(8)
    original = CASES["simple_cnn"].network()
    original.load_state_dict(module.state_dict(), strict=False)
    torch.testing.assert_close(outputs(module, inputs), outputs(original, inputs))
    before = {key: value.clone() for key, value in module.named_buffers() if "running" in key}
    assert module.training is False
    outputs(module.train(), inputs), outputs(module, inputs)
    assert all(not torch.equal(before[key], dict(module.named_buffers())[key]) for key in before)
    original.train()
    outputs(original, inputs), outputs(original, inputs)
    torch.testing.assert_close(module.get_buffer("features.1.running_mean"), original.features[1].running_mean)


def test_tied_tensors_stay_one_parameter(exported: Exported) -> None:
    for exporter in ("legacy", "dynamo"):
        module = build_module(read_model(exported("tied_lm", exporter)))
        embedding = next(layer for layer in module.modules() if isinstance(layer, nn.Embedding))
        assert module.get_submodule("head").weight is embedding.weight
    shared = build_module(read_model(exported("shared_conv", "legacy")))
    assert [item.target for item in shared.graph.nodes if item.target == "shared"] == ["shared", "shared"]


def test_fresh_normalizations_are_not_tied_although_their_tensors_are_stored_once(exported: Exported) -> None:
    module = build_module(read_model(exported("vit", "legacy")))
    norms = [layer.weight for layer in module.modules() if isinstance(layer, nn.LayerNorm)]
    assert len(norms) == len({id(weight) for weight in norms}) == 5


def test_a_bias_belongs_to_its_layer_unless_the_weight_is_shared_too() -> None:
    """Exporters store equal tensors once: equal biases of layers with other weights are no tie, those of a tied weight are."""
    constants = {name: normal(6, 6, seed=place) for place, name in enumerate(("one", "two", "three"), 1)}
    constants |= {"kernel": normal(6, 6, 3, 3, seed=4), "b": normal(6, seed=5)}
    layers = [
        node("Conv", ["x", "kernel", "b"], ["near"], pads=[1] * 4),
        node("Conv", ["near", "kernel", "b"], ["far"], pads=[2] * 4, dilations=[2, 2]),
        node("GlobalAveragePool", ["far"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("Gemm", ["flat", "one", "b"], ["first"], transB=1),
        node("Gemm", ["first", "two", "b"], ["second"], transB=1),
        node("MatMul", ["second", "three"], ["product"]),
        node("Add", ["product", "b"], ["y"]),
    ]
    module = assert_same(model(layers, {"x": [BATCH, 6, 5, 5]}, ["y"], constants), {"x": normal(2, 6, 5, 5)})
    near, far = (layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
    assert near.weight is far.weight
    assert near.bias is far.bias
    linear = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    assert len({id(layer.bias) for layer in (near, *linear)}) == 4
    with torch.no_grad():
        linear[0].bias.zero_()
    assert all(torch.equal(layer.bias, torch.from_numpy(constants["b"])) for layer in (near, *linear[1:]))


@pytest.mark.parametrize("trained", [False, True])
def test_batch_normalizations_that_are_alike_because_they_are_new_stay_apart(trained: bool) -> None:
    values = {"scale": np.ones(4), "bias": np.zeros(4), "mean": np.zeros(4), "variance": np.ones(4)}
    constants = {name: (value + trained * np.arange(4)).astype(np.float32) for name, value in values.items()}
    nodes = [node("BatchNormalization", [source, *constants], [to]) for source, to in (("x", "h"), ("h", "y"))]
    module = assert_same(model(nodes, {"x": [BATCH, 4, 3, 3]}, ["y"], constants), {"x": normal(2, 4, 3, 3)})
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in module.modules()) == (1 if trained else 2)


def test_a_mask_of_infinities_is_no_parameter(exported: Exported) -> None:
    module = build_module(read_model(exported("torch_transformer", "dynamo")))
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())
    assert any(torch.isinf(buffer).any() for buffer in module.buffers())


def test_copies_share_nothing_and_compute_the_same(exported: Exported) -> None:
    module = build_module(read_model(exported("vit", "dynamo")))
    inputs = CASES["vit"].inputs(3)
    twin = copy.deepcopy(module)
    torch.testing.assert_close(outputs(twin, inputs), outputs(module, inputs))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    assert not torch.allclose(outputs(twin, inputs)[0], outputs(module, inputs)[0])
    twin.load_state_dict(module.state_dict())
    torch.testing.assert_close(outputs(twin, inputs), outputs(module, inputs))


def pruned(module: nn.Module, name: str, ignored: list[nn.Module]) -> nn.Module:
    import torch_pruning

    inputs = CASES[name].inputs(2)
    importance = torch_pruning.importance.MagnitudeImportance(p=1)
    torch_pruning.pruner.BasePruner(module, inputs, importance=importance, pruning_ratio=0.5, ignored_layers=ignored).step()
    return module


@pytest.mark.parametrize("name", ["mlp", "simple_cnn", "resnet", "mobilenet", "densenet", "volume", "audio", "unet"])
@pytest.mark.parametrize("dynamic", [True, False])
def test_half_of_all_channels_can_be_pruned(name: str, dynamic: bool, exported: Exported) -> None:
    """Channels shrink as in the original network, and what is left runs at another batch and trains."""
    module = build_module(read_model(exported(name, "legacy", dynamic=dynamic, keep_norms=name in ("mlp", "densenet"))))
    weights = {key: parameter.shape for key, parameter in module.named_parameters()}
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)
    layers = {key: layer for key, layer in module.named_modules() if isinstance(layer, kinds)}
    last = list(layers)[-1]
    pruned(module, name, [layers[last]])
    for key, layer in layers.items():
        before, after = weights[f"{key}.weight"], layer.weight.shape
        out = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
        assert after[out] == (before[out] if key == last else before[out] // 2), key
    inputs = CASES[name].inputs(5)
    result = module.train()(*inputs)
    assert result.shape == CASES[name].network()(*inputs).shape
    result.square().sum().backward()
    assert [key for key, parameter in module.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("exporter", ["legacy", "dynamo"])
@pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")
def test_hidden_width_of_a_vision_transformer_can_be_pruned(exporter: str, exported: Exported) -> None:
    module = build_module(read_model(exported("vit", exporter)))
    hidden = [layer for key, layer in module.named_modules() if key.endswith("mlp.0")]
    ignored = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d) and layer not in hidden]
    pruned(module, "vit", ignored)
    assert [(layer.in_features, layer.out_features) for layer in hidden] == [(16, 16), (16, 16)]
    assert outputs(module, CASES["vit"].inputs(5))[0].shape == (5, 5)
    module.train()(*CASES["vit"].inputs(3)).sum().backward()
    assert all(layer.weight.grad is not None for layer in hidden)


def test_hostile_names_never_reach_the_generated_code(exported: Exported) -> None:
    path = exported("mlp", "legacy")
    proto = read_model(path)
    nasty = '__import__("os").system("exit 1")\n"""'
    for index, initializer in enumerate(list(proto.graph.initializer)):
        renamed = f"{nasty}{index}.weight"
        for item in proto.graph.node:
            item.input[:] = [renamed if name == initializer.name else name for name in item.input]
        initializer.name = renamed
    for item in proto.graph.node:
        item.input[:] = [nasty if name == "in0" else name for name in item.input]
        item.name = nasty
    proto.graph.input[0].name = nasty
    module = build_module(proto)
    assert "system(" not in module.code
    torch.testing.assert_close(outputs(module, CASES["mlp"].inputs(2)), outputs(CASES["mlp"].network(), CASES["mlp"].inputs(2)))


@pytest.mark.parametrize("reserved", ["forward", "train", "parameters", "training", "graph", "class", "self"])
def test_layers_may_be_called_like_methods(reserved: str, exported: Exported) -> None:
    proto = read_model(exported("mlp", "legacy"))
    for item in proto.graph.initializer:
        if item.name == "fc1.weight":
            item.name = f"{reserved}.weight"
    for item in proto.graph.node:
        item.input[:] = [f"{reserved}.weight" if name == "fc1.weight" else reserved if name == "in0" else name for name in item.input]
    proto.graph.input[0].name = reserved
    module = copy.deepcopy(build_module(proto))
    torch.testing.assert_close(outputs(module, CASES["mlp"].inputs(2)), outputs(CASES["mlp"].network(), CASES["mlp"].inputs(2)))


def test_a_table_that_is_read_at_known_places_is_trained() -> None:
    """What attention adds for positions: each number of the table stands at many places, and is one parameter."""
    rng = np.random.default_rng(0)
    table, places = rng.normal(size=(5, 2)).astype(np.float32), np.array([[0, -1, 2], [1, 2, 3], [2, 3, 4]])
    graph = model(
        [
            node("Gather", ["attention.table", "places"], ["bias"], axis=0),
            node("Transpose", ["bias"], ["turned"], perm=[2, 0, 1]),
            node("Add", ["x", "turned"], ["y"]),
        ],
        {"x": [BATCH, 2, 3, 3]},
        ["y"],
        {"attention.table": table, "places": places},
    )
    module = build_module(graph)
    feed = {"x": rng.normal(size=(4, 2, 3, 3)).astype(np.float32)}
    np.testing.assert_array_equal(run_imported(module, feed)[0], run_reference(graph, feed)[0])
    (parameter,) = module.parameters()
    assert parameter.shape == (5, 2)
    module(torch.from_numpy(feed["x"])).sum().backward()
    assert parameter.grad is not None
    np.testing.assert_array_equal(parameter.grad[:, 0], 4 * np.bincount(places.ravel() % 5))
