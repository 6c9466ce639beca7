"""Rounding with gradients: the numbers of ONNX Runtime's own operators, the gradients of the papers' formulas."""

import math

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from engine.methods.quantization.aware import fake
from engine.methods.quantization.aware.fake import FakeQuantize, Round, Through, Weigher, WeightStep, largest, paired, step_factor
from engine.methods.quantization.rounding import Scaling, bias_fits, portable_scales, rounded_weight, scaling, weight_scales


def runtime_rounding(values: np.ndarray, how: Scaling) -> np.ndarray:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [len(values)]) for name in "xy"]
    constants = [numpy_helper.from_array(np.asarray(how.scale), "s"), numpy_helper.from_array(how.zero_point, "z")]
    graph = helper.make_graph(nodes, "rounding", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": values})[0]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bounds", [(-1.3, 2.9), (0.0, 0.71), (-3.0, 0.0)])
def test_activations_are_rounded_bit_by_bit_like_in_the_runtime(bounds: tuple[float, float], symmetric: bool) -> None:
    how = scaling(*bounds, symmetric=symmetric)
    rng = np.random.default_rng(0)
    halves = (np.arange(-300, 300) + 0.5) * how.scale
    values = np.concatenate([rng.uniform(-6, 6, 20_000), halves, np.zeros(1)]).astype(np.float32)
    found = FakeQuantize(how, learned=False)(torch.from_numpy(values))
    assert np.array_equal(found.numpy(), runtime_rounding(values, how))


def test_gradients_of_values_and_step_are_those_of_the_formulas() -> None:
    step, low, high = 0.4, -3, 4
    values = torch.tensor([-5.0, -1.2, -0.7, -0.05, 0.0, 0.1, 0.59, 1.5, 1.6, 2.3], requires_grad=True)
    learned = torch.tensor(step, requires_grad=True)
    sent = torch.linspace(1, 2, len(values))
    Round.apply(values, learned, low, high).backward(sent)
    units = values.detach() / step
    inside = (units.round() >= low) & (units.round() <= high)
    assert torch.equal(values.grad, sent * inside)
    by_hand = sum(
        float(weight) * (low if unit < low else high if unit > high else round(float(unit)) - float(unit))
        for weight, unit in zip(sent, units, strict=True)
    )
    assert float(learned.grad) == pytest.approx(by_hand, rel=1e-5)


def test_a_step_for_each_channel_gets_the_gradient_of_its_channel() -> None:
    torch.manual_seed(0)
    weight, steps = torch.randn(3, 4, 2), torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1).requires_grad_()
    sent = torch.randn(3, 4, 2)
    Round.apply(weight, steps, -7, 7).backward(sent)
    for channel in range(3):
        alone = steps.detach()[channel].clone().reshape(()).requires_grad_()
        Round.apply(weight[channel], alone, -7, 7).backward(sent[channel])
        assert float(steps.grad[channel]) == pytest.approx(float(alone.grad), rel=1e-5)


def test_descent_on_the_ratio_moves_the_step_as_descent_on_the_step() -> None:
    """The step of learned step size quantization: its gradient times 1 / √(features · levels)."""
    how = scaling(0.0, 2.0, symmetric=False)
    learned = FakeQuantize(how, learned=True)
    values = torch.rand(5, 3, 4) * 2.4
    learned(values).sum().backward()
    units = values / float(how.scale)
    gradient = torch.where(units > 255, torch.tensor(255.0), units.round() - units).sum()
    assert step_factor(12, 255) == 1 / math.sqrt(12 * 255)
    moves = float(learned.ratio.grad) * float(how.scale)
    assert moves == pytest.approx(float(gradient) / math.sqrt(12 * 255), rel=1e-4), "the step moves by as much as by its own gradient"
    with torch.no_grad():
        learned.ratio.fill_(-1.0)
    assert 0 < learned.scaling().scale < how.scale, "a step is never negative"


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_weights_and_biases_are_stored_as_the_writer_stores_them(axis: int | None) -> None:
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(6, 5)).astype(np.float32)
    weight[2] = 0
    width = 6 if axis != 1 else 5
    bias = (rng.normal(size=width) * 10.0 ** np.arange(-2, width - 2)).astype(np.float32)
    bias[-1] = 1e9
    source = FakeQuantize(scaling(-1, 3, symmetric=False), learned=False)
    step = source.scaling().scale
    scales = weight_scales(weight, axis, 127)
    assert np.array_equal(largest(torch.from_numpy(weight), axis, 127).numpy(), scales)
    assert np.array_equal(paired(torch.from_numpy(weight), axis, 127).numpy(), portable_scales(weight, axis))
    fitting = bias_fits(bias, scales, step)
    assert not np.array_equal(fitting, scales)
    shape = [1, 1]
    if axis is not None:
        shape[axis] = -1
    stored = rounded_weight(weight, fitting, axis, 127).astype(np.float32) * fitting.reshape(shape)
    units = np.asarray(fitting * step, np.float32)
    integers = np.rint(bias.astype(np.float64) / units).astype(np.int32)
    ours = Weigher(WeightStep(torch.from_numpy(weight), axis, 127, learned=False), source)
    given_weight, given_bias = ours.stored(torch.from_numpy(weight), torch.from_numpy(bias))
    assert np.array_equal(given_weight.numpy(), stored)
    assert np.array_equal(given_bias.numpy(), integers.astype(np.float32) * units)


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("shape", [(7, 5), (6, 4, 3, 3), (5, 3, 7), (1, 9)])
def test_large_weights_are_looked_at_in_blocks(shape: tuple[int, ...], axis: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "_BLOCK", 20)
    for seed in range(5):
        weight = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
        assert np.array_equal(paired(torch.from_numpy(weight), axis, 127).numpy(), portable_scales(weight, axis))


def test_the_gradient_passes_straight_through_what_was_rounded() -> None:
    values = torch.tensor([0.2, 1.7], requires_grad=True)
    result = Through.apply(values, torch.tensor([0.0, 2.0]))
    assert torch.equal(result, torch.tensor([0.0, 2.0]))
    result.backward(torch.tensor([3.0, 5.0]))
    assert torch.equal(values.grad, torch.tensor([3.0, 5.0]))


def test_the_largest_weight_of_a_channel_keeps_its_gradient() -> None:
    """It stands at the end of its grid, on either side by a rounding of the division."""
    torch.manual_seed(3)
    weight = torch.randn(200, 7, requires_grad=True)
    step = WeightStep(weight, 0, 127, learned=False)
    Weigher(step, None).stored(weight, None)[0].sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))
