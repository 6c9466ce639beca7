"""Shared weights: k-means by hand, the gradient of a shared value, zeros, and the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from engine.methods.quantization.codebook import apply
from engine.methods.quantization.few_bits.clustering import cluster, nearest
from engine.methods.quantization.few_bits.levels import SharedWeight
from engine.methods.quantization.spec import Codebook
from engine.networks import masks
from engine.networks.masks import Mask
from tests.modelpress.alone import run_alone


@pytest.mark.parametrize("start", ["linear", "density", "random"])
def test_clusters_are_a_fixed_point_of_lloyds_iteration(start: Any) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=3000).astype(np.float32)
    centres = cluster(values, 8, start, rng)
    assert len(centres) == 8
    chosen = np.abs(values[:, None] - centres).argmin(axis=1)
    assert (nearest(values, centres) == chosen).mean() > 0.999
    means = [values[chosen == index].mean(dtype=np.float64) for index in range(8)]
    assert np.allclose(centres, means, atol=1e-5)


def test_few_distinct_weights_are_their_own_centres() -> None:
    values = np.array([[0.5, -1.0], [0.5, 2.0]], np.float32)
    assert cluster(values, 4, "linear", np.random.default_rng(0)).tolist() == [-1.0, 0.5, 2.0]


def test_a_shared_value_moves_by_the_sum_of_the_gradients_of_its_weights() -> None:
    indices = torch.tensor([[0, 1, 2], [2, 2, 1]], dtype=torch.uint8)
    item = SharedWeight(torch.tensor([-1.0, 0.0, 2.0]), indices, keep_zero=True)
    seen = item(torch.randn(2, 3))
    assert seen.tolist() == [[-1, 0, 2], [2, 2, 0]]
    seen.backward(torch.tensor([[1.0, 10.0, 100.0], [1000.0, 10000.0, 5.0]]))
    assert item.values.grad[:, 0].tolist() == [1.0, 0.0, 11100.0]


def test_shared_values_decay_as_weights_do(world: Callable[..., Any], trained_cnn: nn.Module) -> None:
    found = []
    for decay in (0.0, 5.0):
        scene = world(trained_cnn)
        result = apply(scene.network, Codebook(bits=3, iterations=20, learning_rate=1e-3, weight_decay=decay), scene.context)
        found.append(float(result.module[7].weight.detach().norm()))
    assert found[1] < 0.96 * found[0]


def test_a_pruned_network_in_four_bits_and_in_a_huffman_code(world: Callable[..., Any], trained_cnn: nn.Module, tmp_path: Path) -> None:
    kept = trained_cnn[7].weight.detach().abs() > trained_cnn[7].weight.detach().abs().quantile(0.9)
    masks.hold(trained_cnn, {"7.weight": Mask(kept)})
    scene = world(trained_cnn)
    result = apply(scene.network, Codebook(bits=4, epochs=2, learning_rate=1e-3), scene.context)
    stages = {row["stage"]: row["test.top1"] for row in scene.context.reported["stages"]}
    assert stages["trained"] >= stages["before"] - 0.03
    weight = result.module[7].weight.detach()
    assert torch.equal(weight != 0, kept)
    assert len(weight.unique()) <= 16
    rows = {row["weight"]: row for row in scene.context.reported["layers"]}
    assert [row["bits"] for row in rows.values()] == [4, 4, 4]
    assert rows["7.weight"]["bits_in_packed_file"] < 2.5, "an entropy code of mostly zeros"
    images = scene.data.splits["test"].images
    expected = result.module(torch.from_numpy(images)).detach().numpy()
    file = result.file(tmp_path / "none.onnx")
    assert np.allclose(ort.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"x": images})[0], expected, atol=1e-4)
    artifact = next(item.path for item in scene.context.files if item.kind == "packed_weights")
    np.savez(tmp_path / "given.npz", x=images, y=expected, w=weight.numpy())
    code = """
import sys, numpy as np
from modelpress.runtime import packed
network, given = packed.open(sys.argv[1]), np.load(sys.argv[2])
assert np.array_equal(network.weights()["7.weight"], given["w"])
assert np.allclose(network.run({"x": given["x"]})[0], given["y"], atol=1e-4)
"""
    run_alone(code, tmp_path, artifact, tmp_path / "given.npz")


def test_clustering_alone_needs_no_data(world: Callable[..., Any], trained_cnn: nn.Module) -> None:
    params = Codebook(bits=5, epochs=0)
    assert not params.needs.dataset
    scene = world(trained_cnn)
    scene.context.data = None
    result = apply(scene.network, params, scene.context)
    assert all(len(weight.unique()) <= 32 for weight in result.module.parameters() if weight.ndim > 1)
