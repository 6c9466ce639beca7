"""One bit a weight: the paper's rules by themselves, the three ways to use the network, and the files."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from engine.contract.errors import EngineError
from engine.formats.onnx.counting import count_onnx
from engine.formats.onnx.networks import ModuleNetwork
from engine.measuring.layer_table import layer_table
from engine.methods.quantization.binary_connect import Updates, apply, glorot_bound, squared_hinge
from engine.methods.quantization.few_bits.levels import BinaryWeight, sign
from engine.methods.quantization.spec import BinaryConnect
from engine.training.batches import Batch
from engine.training.loop import Moment
from tests.engine.conftest import mlp
from tests.modelpress.alone import run_alone


def test_the_sign_has_two_levels_and_zero_is_positive() -> None:
    weight = torch.tensor([-0.5, -0.0, 0.0, 1e-30, -1e-30])
    assert sign(weight).tolist() == [-1, 1, 1, 1, -1]
    item = BinaryWeight(0.25, stochastic=False).eval()
    assert item(weight).tolist() == [-0.25, 0.25, 0.25, 0.25, -0.25]
    stored = item.indexed(weight)
    assert stored.values().tolist() == [-0.25, 0.25, 0.25, 0.25, -0.25]
    assert stored.bits == 1


def test_weights_are_drawn_with_the_hard_sigmoid_as_probability() -> None:
    item = BinaryWeight(0.5, stochastic=True).train()
    given = torch.tensor([-0.7, -0.5, -0.25, 0.0, 0.1, 0.5, 0.9])
    assert item.probability(given).tolist() == pytest.approx([0, 0, 0.25, 0.5, 0.6, 1, 1])
    torch.manual_seed(0)
    draws = torch.stack([item(given) for _ in range(4000)])
    assert set(draws.unique().tolist()) == {-0.5, 0.5}
    share = (draws > 0).float().mean(dim=0)
    assert torch.allclose(share, item.probability(given), atol=4 * math.sqrt(0.25 / 4000))
    item.eval()
    assert torch.equal(item(given), item(given)), "nothing is drawn where nothing is trained"


def test_forward_and_backward_use_the_same_binary_weights() -> None:
    """∂C/∂w is ∂C/∂w_b of the very weights that were drawn, for weights at the ends as for all others."""
    torch.manual_seed(0)
    weight = torch.empty(40, 9).uniform_(-1, 1).requires_grad_()
    with torch.no_grad():
        weight[0] = 1.0
    binary = BinaryWeight(1.0, stochastic=True).train()(weight)
    values = torch.randn(5, 9)
    ((values @ binary.T).square() / 2).sum().backward()
    by_hand = (values @ binary.detach().T).T @ values
    assert torch.allclose(weight.grad, by_hand, rtol=1e-5)


@pytest.mark.parametrize(("optimizer", "power"), [("adam", 1), ("sgd", 2)])
def test_updates_are_scaled_by_the_glorot_coefficient_and_clipped(
    world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, optimizer: str, power: int
) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    remember, correct = Updates._remember, Updates._correct

    def before(self: Updates, moment: Moment) -> None:
        self.watched = self._weights["1.weight"].detach().clone()
        remember(self, moment)

    def after(self: Updates, moment: Moment) -> None:
        stepped = self._weights["1.weight"].detach().clone()
        correct(self, moment)
        seen.append((self.watched, stepped, self._weights["1.weight"].detach().clone()))

    monkeypatch.setattr(Updates, "_remember", before)
    monkeypatch.setattr(Updates, "_correct", after)
    scene = world(mlp())
    params = BinaryConnect(iterations=3, optimizer=optimizer, learning_rate=0.02, magnitude="one", initialization="random", ensemble_size=0)
    apply(scene.network, params, scene.context)
    factor = (1 / math.sqrt(1.5 / (64 + 32))) ** power
    assert glorot_bound(torch.empty(32, 64)) == pytest.approx(math.sqrt(1.5 / 96))
    for start, stepped, found in seen:
        assert not torch.equal(start, stepped)
        assert torch.allclose(found, (start + factor * (stepped - start)).clamp(-1, 1), atol=1e-5)
    assert len(seen) == 3
    assert any((found.abs() == 1).any() for *_, found in seen)
    assert "no_batch_normalization" in {event.code for event in scene.of("warning")}


def test_the_squared_hinge_is_the_papers(world: Callable[..., Any]) -> None:
    scene = world(mlp())
    loss = squared_hinge(scene.context)
    batch = Batch.of(scene.data.splits["train"], np.arange(3), ("x",), torch.device("cpu"))
    scores = torch.randn(3, 5)
    labels = scene.data.splits["train"].labels[:3]
    by_hand = np.mean(
        [
            max(0.0, 1 - (1 if column == label else -1) * float(row[column])) ** 2
            for row, label in zip(scores, labels, strict=True)
            for column in range(5)
        ]
    )
    assert float(loss(scores, batch)) == pytest.approx(float(by_hand), rel=1e-5)
    shares = world(nn.Sequential(mlp(), nn.Softmax(1)))
    with pytest.raises(EngineError, match="probabilities") as caught:
        apply(shares.network, BinaryConnect(epochs=1, loss="squared_hinge"), shares.context)
    assert caught.value.code == "loss_not_applicable"


@pytest.mark.parametrize("binarization", ["deterministic", "stochastic"])
def test_all_three_uses_are_scored_and_the_files_hold_one_bit_a_weight(
    world: Callable[..., Any], trained_cnn: nn.Module, tmp_path: Path, binarization: str
) -> None:
    scene = world(trained_cnn)
    params = BinaryConnect(epochs=6, learning_rate=3e-3, binarization=binarization, ensemble_size=3)
    result = apply(scene.network, params, scene.context)
    report = scene.context.reported
    recalibrated = {"real_recalibrated"} | ({"binary_recalibrated"} if binarization == "stochastic" else set())
    assert set(report["inference"]) == {"binary", "real", "ensemble", *recalibrated}
    assert report["inference"]["binary"] != report["inference"]["real"] != report["inference"]["ensemble"]
    if binarization == "deterministic":
        assert report["inference"]["binary"]["test.top1"] > 0.8
    assert all(0 <= record["sign_changes"] <= 1 for record in report["training"])
    assert [row["bits"] for row in report["layers"]] == [1, 1, 1]
    scene.network.write_onnx(tmp_path / "before.onnx")
    file = result.file(tmp_path / "none.onnx")
    for layer in layer_table(tmp_path / "before.onnx", file):
        assert layer.before.bits == 32
        assert layer.after.bits == 1
        assert layer.after.sparsity == 0
        assert layer.after.params_count == layer.before.params_count
    assert count_onnx(file) == count_onnx(tmp_path / "before.onnx")
    for name, weight in result.module.named_parameters():
        if weight.ndim > 1:
            assert len(weight.unique()) == 2, name
            assert float(weight.detach().max()) == -float(weight.detach().min())
    images = scene.data.splits["test"].images
    expected = result.module(torch.from_numpy(images)).detach().numpy()
    found = ort.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"x": images})[0]
    assert np.allclose(found, expected, atol=1e-4)
    artifact = next(item.path for item in scene.context.files if item.kind == "packed_weights")
    np.savez(tmp_path / "given.npz", x=images, y=expected)
    code = """
import sys, numpy as np
from modelpress.runtime import packed
network, given = packed.open(sys.argv[1]), np.load(sys.argv[2])
assert set(network.bits.values()) == {1}
for name in network.bits:
    assert set(np.unique(network.indices(name))) == {0, 1} and len(network.levels(name)) == 2
assert np.allclose(network.run({"x": given["x"]})[0], given["y"], atol=1e-4)
print(sum(value.size for value in network.weights().values()))
"""
    assert int(run_alone(code, tmp_path, artifact, tmp_path / "given.npz")) >= 2400


def test_what_is_ignored_stays_real_and_zeros_are_announced_as_lost(world: Callable[..., Any], trained_cnn: nn.Module) -> None:
    from engine.networks import masks
    from engine.networks.masks import Mask

    masks.hold(trained_cnn, {"4.weight": Mask(trained_cnn[4].weight.detach() > 0)})
    scene = world(trained_cnn)
    result = apply(scene.network, BinaryConnect(epochs=1, ignore=("Linear",), ensemble_size=0), scene.context)
    levels = {name: len(weight.unique()) for name, weight in result.module.named_parameters() if weight.ndim > 1}
    assert levels["0.weight"] == levels["4.weight"] == 2
    assert levels["7.weight"] > 100
    assert "zeros_lost" in {event.code for event in scene.of("warning")}
    alone = world(trained_cnn)
    with pytest.raises(EngineError) as caught:
        apply(alone.network, BinaryConnect(epochs=1, ignore=("Linear", "Conv2d")), alone.context)
    assert caught.value.code == "nothing_quantized"


def test_real_weights_are_published_where_they_are_wanted(world: Callable[..., Any], trained_cnn: nn.Module) -> None:
    scene = world(trained_cnn)
    result = apply(scene.network, BinaryConnect(epochs=1, inference="real", ensemble_size=0), scene.context)
    assert isinstance(result, ModuleNetwork)
    for name, size in scene.context.reported["magnitudes"].items():
        weight = dict(result.module.named_parameters())[name]
        assert len(weight.unique()) > 2
        assert float(weight.detach().abs().max()) <= size * (1 + 1e-6)
