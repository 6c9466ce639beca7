"""Exported programs: read as data, lifted to real layers, and nothing that such a file says is ever executed."""

import copy
import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from engine.contract.errors import EngineError
from engine.contract.metadata import ModelMetadata
from engine.formats import load_network
from engine.networks.network import Network
from tests.engine.formats.onnx.files import program_file, zip_file


class Convolutions(nn.Module):
    """Layers whose behaviour differs between training and evaluation, a residual, and values of the module's own."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.inner = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.drop, self.head, self.scale = nn.Dropout(0.5), nn.Linear(64, 5), nn.Parameter(torch.ones(1))
        self.register_buffer("shift", torch.arange(5.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.features(image)
        features = features + functional.gelu(self.inner(features))
        return self.head(self.drop(features.flatten(1))) * self.scale + self.shift


class Tokens(nn.Module):
    """Attention with dropout inside, on tokens, the output tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(20, 8), nn.Parameter(torch.randn(1, 6, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.out = nn.Linear(8, 20, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.out(self.block(self.embed(tokens) + self.place))


class TwoOutputs(nn.Module):
    """An encoder and a decoder, two inputs of which one is a table, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.norm, self.up = nn.Conv2d(2, 4, 3, 2, 1), nn.GroupNorm(2, 4), nn.ConvTranspose2d(4, 3, 2, 2)
        self.table = nn.Linear(3, 4)

    def forward(self, image: torch.Tensor, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        code = functional.relu(self.norm(self.down(image))) + self.table(row)[:, :, None, None]
        return self.up(code), code.mean((2, 3))


CASES: dict[str, tuple[type[nn.Module], Callable[[int], tuple[torch.Tensor, ...]]]] = {
    "convolutions": (Convolutions, lambda batch: (torch.randn(batch, 1, 8, 8),)),
    "tokens": (Tokens, lambda batch: (torch.randint(0, 20, (batch, 6)),)),
    "two_outputs": (TwoOutputs, lambda batch: (torch.randn(batch, 2, 8, 8), torch.randn(batch, 3))),
}


def program(module: nn.Module, inputs: tuple[torch.Tensor, ...], *, dynamic: bool = True, decomposed: bool = False) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = tuple({0: torch.export.Dim("batch")} for _ in inputs) if dynamic else None
        exported = torch.export.export(module, inputs, dynamic_shapes=shapes)
        buffer = io.BytesIO()
        torch.export.save(exported.run_decompositions() if decomposed else exported, buffer)
    return buffer.getvalue()


def load(data: bytes, folder: Path) -> Network:
    (folder / "model.pt2").write_bytes(data)
    return load_network(folder / "model.pt2", "pt2", ModelMetadata(), folder)


def outputs(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    with torch.no_grad():
        found = module(*inputs)
    return [found] if isinstance(found, torch.Tensor) else list(found)


@pytest.mark.parametrize("how", ["train", "eval", "decomposed"])
@pytest.mark.parametrize("name", CASES)
def test_an_exported_network_computes_the_same_and_has_its_layers_back(name: str, how: str, tmp_path: Path) -> None:
    make, inputs = CASES[name]
    torch.manual_seed(0)
    module = make().train(how == "train")
    network = load(program(module, inputs(2), decomposed=how == "decomposed"), tmp_path)
    module.eval()
    assert all(spec.shape[0] is None for spec in (*network.signature.inputs, *network.signature.outputs))
    for batch in (1, 5):
        given = inputs(batch)
        for want, got in zip(outputs(module, given), outputs(network.module, given), strict=True):
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    for kind in (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.Embedding):
        had, has = (sum(isinstance(layer, kind) for layer in whole.modules()) for whole in (module, network.module))
        assert has >= had, kind
    own = {name for name, _ in module.named_parameters() if "in_proj" not in name}
    assert own <= {name for name, _ in network.module.named_parameters()}


def test_layers_switch_between_training_and_evaluation_and_learn(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = load(program(Convolutions().eval(), (torch.randn(2, 1, 8, 8),)), tmp_path)
    module, images = network.module, torch.randn(16, 1, 8, 8) + 3
    norm = module.get_submodule("features.1")
    before = norm.running_mean.clone()  # type: ignore[operator, union-attr]
    assert torch.equal(module(images), module(images))
    module.train()
    assert not torch.equal(norm.running_mean, before) or module(images).shape == (16, 5)  # type: ignore[arg-type]
    module(images)
    assert not torch.equal(norm.running_mean, before), "running statistics are those of training"  # type: ignore[arg-type]
    optimizer, losses = torch.optim.Adam(module.parameters(), 1e-2), []
    for _ in range(20):
        loss = functional.cross_entropy(module(images), torch.arange(16) % 5)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]


def test_it_is_written_as_onnx_and_tied_weights_stay_tied(tmp_path: Path) -> None:
    import onnxruntime

    module = Tokens().eval()
    network = load(program(module, (torch.randint(0, 20, (2, 6)),)), tmp_path)
    assert sum(item.numel() for item in network.module.parameters()) == sum(item.numel() for item in module.parameters())
    network.write_onnx(tmp_path / "out.onnx")
    tokens = torch.randint(0, 20, (3, 6))
    session = onnxruntime.InferenceSession(tmp_path / "out.onnx", providers=["CPUExecutionProvider"])
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"tokens": tokens.numpy()})[0]), outputs(module, (tokens,))[0])


def test_a_batch_that_the_program_fixes_is_fixed(tmp_path: Path) -> None:
    network = load(program(Convolutions().eval(), (torch.randn(2, 1, 8, 8),), dynamic=False), tmp_path)
    assert network.signature.inputs[0].shape == (2, 1, 8, 8)

    class Baked(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.reshape(image.shape[0], -1)

    with pytest.raises(EngineError, match="3 examples at a time only"):
        load(program(Baked(), (torch.randn(3, 1, 8, 8),), dynamic=False), tmp_path)


# Files of strangers


class Marked:
    """A pickle that creates a file when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


def changed(change: Callable[[dict[str, Any], dict[str, bytes]], None]) -> bytes:
    """The good program with its document and members changed."""
    with zipfile.ZipFile(io.BytesIO(program_file())) as archive:
        found = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    document = json.loads(found["models/model.json"])
    change(document, found)
    found.setdefault("models/model.json", b"")
    if found["models/model.json"] is not None and document is not None:
        found["models/model.json"] = json.dumps(document).encode()
    return zip_file({f"m/{name}": data for name, data in found.items()})


def graph(document: dict[str, Any]) -> dict[str, Any]:
    return document["graph_module"]["graph"]


def rename_input(document: dict[str, Any], text: str) -> None:
    whole = json.dumps(document).replace('"input"', json.dumps(text))
    document.clear()
    document.update(json.loads(whole))


def config(files: dict[str, bytes], change: Callable[[dict[str, Any]], None], kind: str = "weights") -> None:
    name = f"data/{kind}/model_{kind}_config.json"
    document = json.loads(files[name])
    change(document["config"])
    files[name] = json.dumps(document).encode()


def first(weights: dict[str, Any]) -> dict[str, Any]:
    return weights["1.weight"]


def renamed(path: str) -> Callable[[dict[str, Any], dict[str, bytes]], None]:
    def change(document: dict[str, Any], files: dict[str, bytes]) -> None:
        config(files, lambda weights: weights.update({path: weights.pop("1.weight")}))
        spec = next(item["parameter"] for item in document["graph_module"]["signature"]["input_specs"] if "parameter" in item)
        assert spec["parameter_name"] == "1.weight"
        spec["parameter_name"] = path

    return change


def nested(document: dict[str, Any], files: dict[str, bytes]) -> None:
    inner: Any = {}
    for _ in range(300):
        inner = {"as_graph": {"name": "g", "graph": inner}}
    graph(document)["nodes"][0]["inputs"][0]["arg"] = inner


HOSTILE: dict[str, tuple[Callable[[dict[str, Any], dict[str, bytes]], None], str]] = {
    "pickled weight": (lambda d, f: config(f, lambda w: first(w).update(use_pickle=True)), "unsafe_format"),
    "legacy weights": (lambda d, f: config(f, lambda w: first(w).update(path_name="model.pt")), "unsafe_format"),
    "path out of the archive": (lambda d, f: config(f, lambda w: first(w).update(path_name="../weight_0")), "unsafe_format"),
    "opaque object": (lambda d, f: f.update({"data/constants/opaque_obj_0": b"x"}), "unsafe_format"),
    "operator that reads files": (
        lambda d, f: graph(d)["nodes"][0].update(target="torch.ops.aten.from_file.default"),
        "unsupported_operator",
    ),
    "function of Python": (lambda d, f: graph(d)["nodes"][0].update(target="os.system"), "unsupported_operator"),
    "attribute of an operator": (
        lambda d, f: graph(d)["nodes"][0].update(target="torch.ops.aten.flatten.__class__"),
        "unsupported_operator",
    ),
    "control flow": (lambda d, f: graph(d)["nodes"][0].update(target="torch.ops.higher_order.cond"), "unsupported_operator"),
    "code in an input's name": (lambda d, f: rename_input(d, "x):\n  open('MARKER','w')\n  return (y"), "unsupported_operator"),
    "parameter called like a method": (renamed("forward"), "model_invalid"),
    "parameter with dunder": (renamed("a.__class__.weight"), "model_invalid"),
    "parameter that is code": (renamed("a;open('MARKER','w')"), "model_invalid"),
    "more elements than bytes": (
        lambda d, f: config(f, lambda w: first(w)["tensor_meta"].update(sizes=[{"as_int": 2**31}, {"as_int": 64}])),
        "tensor_limit_exceeded",
    ),
    "repeated elements": (
        lambda d, f: config(
            f, lambda w: first(w)["tensor_meta"].update(sizes=[{"as_int": 2**40}, {"as_int": 64}], strides=[{"as_int": 0}, {"as_int": 1}])
        ),
        "tensor_limit_exceeded",
    ),
    "offset out of bounds": (
        lambda d, f: config(f, lambda w: first(w)["tensor_meta"].update(storage_offset={"as_int": 10**9})),
        "tensor_limit_exceeded",
    ),
    "negative stride": (
        lambda d, f: config(f, lambda w: first(w)["tensor_meta"].update(strides=[{"as_int": -64}, {"as_int": 1}])),
        "model_invalid",
    ),
    "expression as a size": (
        lambda d, f: config(f, lambda w: first(w)["tensor_meta"].update(sizes=[{"as_expr": {"expr_str": "open('MARKER','w')"}}] * 2)),
        "model_invalid",
    ),
    "text as an argument": (
        lambda d, f: graph(d)["nodes"][0]["inputs"][1].update(arg={"as_string": "'); open('MARKER','w'); ('"}),
        "model_invalid",
    ),
    "a value that is nowhere": (
        lambda d, f: graph(d)["nodes"][1]["inputs"][0].update(arg={"as_tensor": {"name": "nowhere"}}),
        "model_invalid",
    ),
    "a graph in a graph": (nested, "unsupported_operator"),
    "another schema": (lambda d, f: d["schema_version"].update(major=99), "model_invalid"),
    "no nodes": (lambda d, f: d["graph_module"].pop("graph"), "model_invalid"),
    "two programs": (lambda d, f: f.update({"models/other.json": b"{}"}), "model_invalid"),
    "weights that are not there": (lambda d, f: f.pop("data/weights/weight_0"), "model_invalid"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_stranger_writes_is_refused_and_never_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    change, code = HOSTILE[name]
    with pytest.raises(EngineError) as caught:
        load(changed(change), tmp_path)
    assert caught.value.code == code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt2"], "nothing was run"


def test_example_inputs_that_are_a_pickle_are_never_read(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    data = changed(lambda document, files: files.update({"data/sample_inputs/model.pt": pickle.dumps(Marked(marker))}))
    assert load(data, tmp_path).module(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    assert not marker.exists()


def test_expressions_of_sizes_are_never_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def change(document: dict[str, Any], files: dict[str, bytes]) -> None:
        for meta in graph(document)["tensor_values"].values():
            meta["sizes"][0] = {"as_expr": {"expr_str": "open('MARKER','w')", "hint": None}}
        document["range_constraints"] = {"open('MARKER','w')": {"min_val": 0, "max_val": 4}}

    assert load(changed(change), tmp_path).signature.inputs[0].shape[0] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt2"]


def test_a_program_that_would_go_on_training_is_refused(tmp_path: Path) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells = nn.LSTM(4, 3, num_layers=2, dropout=0.5, batch_first=True)

        def forward(self, series: torch.Tensor) -> torch.Tensor:
            return self.cells(series)[0]

    module = Recurrent()
    with pytest.raises(EngineError, match="training mode"):
        load(program(copy.deepcopy(module).train(), (torch.randn(2, 5, 4),)), tmp_path)
    network = load(program(module.eval(), (torch.randn(2, 5, 4),)), tmp_path)
    series = torch.randn(3, 5, 4)
    torch.testing.assert_close(network.module(series), module(series))
