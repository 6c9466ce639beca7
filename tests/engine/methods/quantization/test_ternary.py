"""Three levels: the closed form of the paper, zeros, and the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from engine.measuring.layer_table import layer_table
from engine.methods.quantization.few_bits.levels import TernaryWeight
from engine.methods.quantization.spec import Ternary
from engine.methods.quantization.ternary import apply
from engine.networks import masks
from engine.networks.masks import Mask


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_threshold_and_scale_are_the_closed_form(axis: int | None) -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 4, 5, requires_grad=True)
    seen = TernaryWeight(0.7, axis)(weight)
    parts = [(weight, seen)] if axis is None else list(zip(weight.unbind(axis), seen.unbind(axis), strict=True))
    for part, found in parts:
        delta = 0.7 * part.abs().mean()
        large = part.abs() > delta
        alpha = part.abs()[large].mean()
        by_hand = torch.where(large, part.sign() * alpha, torch.zeros(()))
        assert torch.allclose(found, by_hand, rtol=1e-5)
    sent = torch.randn_like(seen)
    seen.backward(sent)
    assert torch.equal(weight.grad, sent)
    stored = TernaryWeight(0.7, axis).indexed(weight)
    assert stored.bits == 2
    assert np.allclose(stored.values(), seen.detach().numpy(), rtol=1e-6)


def test_alpha_is_the_best_for_the_weights_that_are_kept() -> None:
    """α minimizes ‖w - α t‖² for the given t (equation 5)."""
    torch.manual_seed(1)
    weight = torch.randn(50)
    signs, alpha = TernaryWeight(0.7, None).split(weight)
    best = float((weight - alpha * signs).square().sum())
    for other in (0.98, 1.02):
        assert float((weight - other * alpha * signs).square().sum()) > best


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_a_trained_network_in_two_bits(world: Callable[..., Any], trained_cnn: nn.Module, tmp_path: Path, granularity: str) -> None:
    pruned = trained_cnn[4].weight.detach().abs() < trained_cnn[4].weight.detach().abs().median()
    masks.hold(trained_cnn, {"4.weight": Mask(~pruned)})
    scene = world(trained_cnn)
    result = apply(scene.network, Ternary(epochs=3, learning_rate=3e-3, granularity=granularity), scene.context)
    assert scene.context.reported["stages"][-1]["test.top1"] > 0.75
    assert (result.module[4].weight[pruned] == 0).all()
    scene.network.write_onnx(tmp_path / "before.onnx")
    file = result.file(tmp_path / "none.onnx")
    layers = layer_table(tmp_path / "before.onnx", file)
    assert [layer.after.bits for layer in layers] == [2, 2, 2]
    assert layers[1].after.sparsity > 0.49
    images = scene.data.splits["test"].images
    found = ort.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"x": images})[0]
    assert np.allclose(found, result.module(torch.from_numpy(images)).detach().numpy(), atol=1e-4)
