"""What is trained is what the file computes; zeros stay zero; nothing is lost against static quantization."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from pydantic import ValidationError
from torch import nn

from engine.contract.errors import EngineError
from engine.contract.heads import Head
from engine.contract.metadata import ModelMetadata
from engine.formats.loading import load_network
from engine.methods.context import Context
from engine.methods.quantization import quantization_aware_training, static_quantization
from engine.methods.quantization.aware.best import Best
from engine.methods.quantization.aware.normalization import FoldedNormalization, normalized
from engine.methods.quantization.aware.writing import write_trained
from engine.methods.quantization.quantization_aware_training import EXACT, apply
from engine.methods.quantization.spec import QuantizationAwareTraining, StaticQuantization
from engine.networks import masks
from engine.networks.masks import Mask
from engine.training.losses import targets_loss
from tests.engine.conftest import ToyData, ToySplit, cnn, make_split
from tests.engine.drawn.checks import Split, Splits
from tests.engine.formats.onnx.exporting import export
from tests.engine.formats.onnx.graphs import model, node
from tests.engine.formats.onnx.networks import CASES

BRIEF = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-3, "keep": "last"}
KINDS = [
    ("resnet", True, {"step_size": "learned"}, 10),
    ("mobilenet", True, {}, 4),
    ("densenet", False, {"operators": "all"}, 0),
    ("vit", False, {"operators": "all", "step_size": "learned"}, 0),
    ("tied_lm", True, {"step_size": "learned"}, 0),
    ("unet", True, {"symmetric": True}, 0),
    ("two_inputs", False, {"granularity": "tensor", "operators": "all"}, 0),
    ("shared_conv", True, {"ignore": ["Gemm"]}, 0),
    ("lstm", True, {"reduce_range": True}, 0),
]


@pytest.mark.parametrize(("name", "keep_norms", "settings", "norms"), KINDS, ids=[kind[0] for kind in KINDS])
def test_the_file_computes_what_was_trained(tmp_path: Path, name: str, keep_norms: bool, settings: dict[str, Any], norms: int) -> None:
    """Uploaded files without labels, taught by themselves; ONNX Runtime without optimizations beside the module."""
    case = CASES[name]
    path = export(case.network(), case, tmp_path / "m.onnx", exporter="legacy", keep_norms=keep_norms)
    network = load_network(path, "onnx", ModelMetadata(), tmp_path)
    splits = {
        split: Split({f"in{index}": value.numpy() for index, value in enumerate(case.inputs(count, seed))})
        for split, count, seed in (("train", 48, 1), ("test", 32, 2))
    }
    context = Context(
        seed=0, device=torch.device("cpu"), work=tmp_path, emit=lambda event: None, baseline=network, data=Splits(splits)
    ).for_step(0, (0.0, 1.0))
    apply(network, QuantizationAwareTraining(teacher="baseline", alpha=1.0, **BRIEF, **settings), context)
    grid = context.reported["grid"]
    assert grid["largest_difference"] < EXACT
    assert grid["equal_outputs_ratio"] == 1.0
    assert context.reported["batch_norms_count"] == norms


def test_a_table_that_is_read_at_known_places_is_rounded_and_trained(tmp_path: Path) -> None:
    """Positions: the places follow from the length of the input, so that an importer may fold the table away, but the file rounds it."""
    rng = np.random.default_rng(0)
    arrays = {"words": rng.normal(size=(20, 16)), "places": rng.normal(size=(6, 16)), "out": rng.normal(size=(16, 3))}
    constants = {name: value.astype(np.float32) for name, value in arrays.items()}
    constants |= {"all": np.arange(6)[None], "one": np.array([1]), "zero": np.array([0]), "end": np.array([6])}
    graph = model(
        [
            node("Gather", ["words", "ids"], ["w"], axis=0),
            node("Shape", ["ids"], ["shape"]),
            node("Slice", ["shape", "one", "end", "zero"], ["length"]),
            node("Slice", ["all", "zero", "length", "one"], ["range"]),
            node("Gather", ["places", "range"], ["p"], axis=0),
            node("Add", ["w", "p"], ["sum"]),
            node("Tanh", ["sum"], ["bent"]),
            node("ReduceMean", ["bent", "one"], ["mean"], keepdims=0),
            node("MatMul", ["mean", "out"], ["y"]),
        ],
        {"ids": ["n", 6]},
        ["y"],
        constants,
        types={"ids": "i"},
    )
    path = tmp_path / "m.onnx"
    onnx.save(graph, path)
    network = load_network(path, "onnx", ModelMetadata(), tmp_path)
    splits = {name: Split({"ids": rng.integers(0, 20, (48, 6))}) for name in ("train", "test")}
    context = Context(seed=0, device=torch.device("cpu"), work=tmp_path, emit=lambda event: None, baseline=network, data=Splits(splits))
    params = QuantizationAwareTraining(teacher="baseline", alpha=1.0, **{**BRIEF, "learning_rate": 0.05, "epochs": 4})
    result = apply(network, params, context.for_step(0, (0.0, 1.0)))
    stored = {item.name: numpy_helper.to_array(item) for item in onnx.load(result.file(tmp_path / "x.onnx")).graph.initializer}
    trained = stored["places_quantized"] * stored["places_scale"]
    assert np.abs(trained - constants["places"]).max() > stored["places_scale"], "moved by more than rounding"


def accuracy(path: Path, images: np.ndarray, labels: np.ndarray) -> float:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return float((session.run(None, {"x": images})[0].argmax(1) == labels).mean())


def unbalanced(module: nn.Sequential) -> nn.Sequential:
    """The same function, with channels of very different size in front of the second convolution: one scale for all of them is too coarse."""
    first = module[0]
    assert isinstance(first, nn.Conv2d)
    factors = 40.0 ** torch.linspace(-1, 1, first.out_channels)
    with torch.no_grad():
        module[1].weight.mul_(factors)
        module[1].bias.mul_(factors)
        module[4].weight.div_(factors.view(1, -1, 1, 1))
    return module


@pytest.mark.parametrize("step_size", ["calibrated", "learned"])
def test_training_wins_back_what_static_quantization_loses(world: Callable[..., Any], trained_cnn: nn.Module, step_size: str) -> None:
    test = make_split(500, 9)
    shared = {"granularity": "tensor", "reduce_range": True}
    found = {}
    for name, run, params in (
        ("static", static_quantization.apply, StaticQuantization(**shared)),
        (
            "aware",
            apply,
            QuantizationAwareTraining(epochs=8, learning_rate=1e-2, step_size=step_size, **shared),
        ),
    ):
        scene = world(unbalanced(trained_cnn) if name == "static" else trained_cnn, train=300)
        found[name] = accuracy(run(scene.network, params, scene.context).file(scene.context.work / "x.onnx"), test.images, test.labels)
    assert found["aware"] > found["static"] + 0.05


def test_the_best_state_is_no_worse_than_static_quantization(world: Callable[..., Any], trained_cnn: nn.Module) -> None:
    """A rate that ruins the network: what is published is where it began."""
    test = make_split(200, 9)
    ruin = QuantizationAwareTraining(epochs=2, learning_rate=10.0, optimizer="sgd", gradient_clip_norm=1.0)
    found = []
    for run, params in ((apply, ruin), (static_quantization.apply, StaticQuantization())):
        scene = world(trained_cnn)
        found.append(accuracy(run(scene.network, params, scene.context).file(scene.context.work / "x.onnx"), test.images, test.labels))
        assert scene.context.reported.get("best_epoch", 0) == 0
    assert found[0] == found[1]


def test_learned_steps_move_and_calibrated_ones_stay(world: Callable[..., Any], trained_cnn: nn.Module) -> None:
    """Of activations and of weights; a bias is stored in their product, whatever it was."""
    found = {}
    for step_size, rate in (("calibrated", 1e-9), ("calibrated", 1e-3), ("learned", 1e-3)):
        scene = world(trained_cnn)
        params = QuantizationAwareTraining(**{**BRIEF, "learning_rate": rate}, step_size=step_size, batch_norm="frozen", target_cpu="vnni")
        file = apply(scene.network, params, scene.context).file(scene.context.work / "x.onnx")
        found[step_size, rate] = {item.name: numpy_helper.to_array(item) for item in onnx.load(file).graph.initializer}
    begun, fixed, learned = found.values()
    activations = [name for name in begun if name.endswith("_scale") and not name.endswith(("weight_scale", "bias_scale"))]
    assert len(activations) == 3
    for name in activations:
        assert fixed[name] == begun[name]
        assert learned[name] != begun[name]
        assert learned[name] == pytest.approx(begun[name], rel=0.1)
    assert not np.array_equal(learned["7.weight_scale"], fixed["7.weight_scale"])
    assert np.abs(fixed["7.weight_quantized"].astype(int)).max(axis=1).min() == 127, "a calibrated step reaches the largest weight"


def test_pruned_weights_stay_zero(world: Callable[..., Any], trained_cnn: nn.Module) -> None:
    weights = dict(trained_cnn.named_parameters())
    kept = {name: weights[name].detach().abs() > weights[name].detach().abs().median() for name in ("0.weight", "4.weight", "7.weight")}
    masks.hold(trained_cnn, {name: Mask(keep) for name, keep in kept.items()})
    scene = world(trained_cnn)
    result = apply(scene.network, QuantizationAwareTraining(**BRIEF), scene.context)
    stored = {item.name: numpy_helper.to_array(item) for item in onnx.load(result.file(scene.context.work / "x.onnx")).graph.initializer}
    for name, keep in kept.items():
        integers = stored[f"{name}_quantized"]
        assert (integers[~keep.numpy()] == 0).all()
        assert np.count_nonzero(integers) > 0.9 * int(keep.sum())


def test_a_convolution_that_is_folded_normalizes_like_the_two_layers() -> None:
    """Without rounding: the same outputs, gradients and running statistics as convolution and batch normalization."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, stride=2, groups=3), nn.BatchNorm2d(6))
    nn.init.normal_(plain[1].running_mean)
    nn.init.uniform_(plain[1].running_var, 0.5, 2)
    nn.init.normal_(plain[1].weight)
    with torch.no_grad():
        plain[1].weight[0] = 0
    plain.eval()
    values = torch.randn(4, 3, 8, 8)
    (found,) = normalized(plain, (values,))
    folded = FoldedNormalization(plain[0], found, held=False)
    folded.eval()
    assert torch.allclose(folded(values), plain(values), atol=1e-5)
    folded.train()
    plain.train()
    ours, theirs = folded(values), plain(values)
    assert torch.allclose(ours, theirs, atol=1e-4)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    assert torch.allclose(folded.norm.weight.grad[1:], plain[1].weight.grad[1:], rtol=1e-3, atol=1e-4)
    assert torch.allclose(folded.norm.running_var[1:], plain[1].running_var[1:], rtol=1e-3)
    assert torch.allclose((folded.norm.running_mean + plain[0].bias)[1:], plain[1].running_mean[1:], atol=1e-4)
    folded.frozen.fill_(True)
    before = folded.norm.running_var.clone()
    frozen = folded(values)
    assert torch.equal(folded.norm.running_var, before)
    folded.eval()
    assert torch.equal(frozen, folded(values))


@pytest.mark.parametrize(("batch_norm", "after", "moves"), [("corrected", 1.0, True), ("corrected", 0.0, False), ("frozen", 0.5, False)])
def test_statistics_move_until_they_are_frozen(
    world: Callable[..., Any], trained_cnn: nn.Module, batch_norm: str, after: float, moves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    forward = FoldedNormalization.forward

    def watched(self: FoldedNormalization, values: torch.Tensor) -> torch.Tensor:
        result = forward(self, values)
        seen.append(self.norm.running_var.clone())
        return result

    monkeypatch.setattr(FoldedNormalization, "forward", watched)
    scene = world(trained_cnn)
    apply(scene.network, QuantizationAwareTraining(**BRIEF, batch_norm=batch_norm, freeze_batch_norm_after=after), scene.context)
    assert (not torch.equal(seen[0], seen[-1])) == moves


def test_a_teacher_replaces_labels_and_has_to_fit(world: Callable[..., Any], trained_cnn: nn.Module) -> None:
    params = QuantizationAwareTraining(teacher="mdl_b", alpha=1.0, **BRIEF)
    assert not params.needs.labels
    assert params.teachers() == ("mdl_b",)
    scene = world(trained_cnn, teachers={"mdl_b": cnn()})
    counts = {"train": (80, 1), "validation": (40, 3), "test": (40, 2)}
    scene.context.data = ToyData({name: ToySplit(make_split(*count).images, None) for name, count in counts.items()})
    apply(scene.network, params, scene.context)
    wrong = world(trained_cnn, teachers={"mdl_b": nn.Sequential(nn.Flatten(), nn.Linear(64, 3))})
    with pytest.raises(EngineError) as caught:
        apply(wrong.network, params, wrong.context)
    assert caught.value.code == "shape_mismatch"


def test_a_file_that_is_not_what_was_trained_is_refused(
    world: Callable[..., Any], trained_cnn: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(*args: Any, values: dict[str, np.ndarray], **more: Any) -> onnx.ModelProto:
        return write_trained(*args, values={name: value * 1.1 for name, value in values.items()}, **more)

    monkeypatch.setattr(quantization_aware_training, "write_trained", other)
    scene = world(trained_cnn)
    with pytest.raises(EngineError) as caught:
        apply(scene.network, QuantizationAwareTraining(epochs=0), scene.context)
    assert caught.value.code == "quantization_mismatch"
    assert caught.value.details["largest_difference"] > EXACT


def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValidationError, match="a teacher"):
        QuantizationAwareTraining(epochs=1, alpha=0.5)
    assert QuantizationAwareTraining(epochs=1).needs.labels


def test_a_state_of_less_loss_that_answers_fewer_right_is_not_kept(world: Callable[..., Any]) -> None:
    """Three states of one bias: the second has less loss and one right answer fewer, the third less loss and as many right answers."""

    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.state = nn.Parameter(torch.zeros(()))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            """Scores of the label, which stands in the first pixel; wrong for so many examples as `state` says in its tens."""
            sure = 1 + self.state % 10
            wrong = torch.arange(len(images)) < self.state // 10
            return sure * (nn.functional.one_hot((images[:, 0, 0, 0].long() + wrong) % 5, 5) - 0.5)

    scene = world(Scores())
    labels = np.arange(60) % 5
    images = np.zeros((60, 1, 8, 8), np.float32)
    images[:, 0, 0, 0] = labels
    context = scene.context
    module = scene.network.module
    loss = context.loss(module, context.labelled("train"), 0.0)
    best = Best(module, ToySplit(images, labels), loss, context)
    offered = []
    for epoch, state in ((1, 14.0), (2, 2.0)):
        module.state.data.fill_(state)
        offered.append(best.offer(module, epoch))
        assert best.epoch == (0 if epoch == 1 else 2)
    assert best.first.right == offered[1].right == 1
    assert offered[0].right == pytest.approx(59 / 60)
    assert best.first.loss > offered[1].loss > offered[0].loss
    assert best.found == offered[1]


def test_a_state_in_which_one_output_loses_is_not_kept_for_what_another_gains(world: Callable[..., Any]) -> None:
    """Two outputs of one value each: the second state gains much of one and loses a little of the other, the third gains less of both."""

    class Values(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.state = nn.Parameter(torch.tensor([2.0, 2.0]))

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            """How far either value is from its target, 0."""
            return self.state[:1].expand(len(images), 1), self.state[1:].expand(len(images), 1)

    module = Values()
    heads = tuple(Head(name=name, indices=(place,), task="regression", target=name) for place, name in enumerate(("a", "b")))
    known: Any = SimpleNamespace(heads=heads, unused_targets={})
    context = replace(world(module).context, known=lambda: known)
    zeros = np.zeros((30, 1), np.float32)
    split = ToySplit(np.zeros((30, 1, 8, 8), np.float32), None, extra={"a": zeros, "b": zeros})
    best = Best(module, split, targets_loss(heads), context)
    for epoch, state in ((1, (0.0, 2.1)), (2, (1.9, 2.0)), (3, (2.1, 0.0))):
        module.state.data.copy_(torch.tensor(state))
        best.offer(module, epoch)
    assert best.epoch == 2
    best.restore(module)
    assert module.state.tolist() == pytest.approx([1.9, 2.0])
