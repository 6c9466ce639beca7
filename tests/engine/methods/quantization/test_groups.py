import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.formats.onnx.grouped import split_bytes
from engine.methods.quantization.groups import Grouped, grouped, nibbles, packed_blocks
from engine.methods.quantization.refined import adaround, gptq, loss

RNG = np.random.default_rng(0)


@given(st.integers(1, 4), st.integers(1, 9), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_nibbles_come_back_bit_for_bit(rows: int, pairs: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 16, (rows, 2 * pairs)).astype(np.uint8)
    packed = nibbles(values)
    assert packed.nbytes * 2 == values.nbytes
    assert (split_bytes(packed, 4) == values).all()
    assert (packed[:, 0] & 15 == values[:, 0]).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("inputs", "size"), [(64, 16), (40, 16), (7, 32), (33, 32)])
@pytest.mark.parametrize("refinement", ["nearest", "hqq"])
def test_every_weight_is_within_half_a_step_or_clipped(bits: int, symmetric: bool, inputs: int, size: int, refinement: str) -> None:
    weight = RNG.standard_normal((5, inputs))
    found = grouped(weight, bits=bits, size=size, symmetric=symmetric, refinement=refinement)
    steps = np.repeat(found.scales, found.size, axis=1)[:, :inputs]
    inside = (found.integers > 0) & (found.integers < 2**bits - 1)
    assert inside.mean() > 0.5
    assert (np.abs(found.widened() - weight)[inside] <= 0.501 * steps[inside]).all()
    if symmetric:
        assert (found.zeros == 2 ** (bits - 1)).all()


def test_groups_of_zeros_and_of_one_number_come_back_exactly() -> None:
    weight = np.zeros((3, 32))
    weight[1] = 5.0
    weight[2] = -2.5
    for symmetric in (False, True):
        found = grouped(weight, bits=4, size=16, symmetric=symmetric, refinement="nearest").widened()
        assert np.abs(found - weight).max() <= (5.0 / 7 if symmetric else 1e-5)
        assert (found[0] == 0).all()


def test_a_fitted_grid_never_loses_more_than_the_plain_one() -> None:
    weight = RNG.laplace(size=(64, 128))
    errors = {
        how: np.square(grouped(weight, bits=4, size=64, symmetric=False, refinement=how).widened() - weight).mean()
        for how in ("nearest", "hqq")
    }
    assert errors["hqq"] < 0.97 * errors["nearest"]


def test_packed_blocks_hold_the_integers_and_fill_up_with_the_zero_point() -> None:
    found = grouped(RNG.standard_normal((3, 40)), bits=4, size=16, symmetric=False, refinement="nearest")
    weights, scales, zeros = packed_blocks(found)
    assert (weights.shape, scales.shape, zeros.shape) == ((3, 3, 8), (3, 3), (3, 2))
    whole = split_bytes(weights, 4).reshape(3, 48)
    assert (whole[:, :40] == found.integers).all()
    assert (whole[:, 40:] == found.zeros[:, 2:]).all()
    assert (split_bytes(zeros, 4)[:, :3] == found.zeros).all()
    eight = Grouped(found.integers, found.scales, found.zeros, 16, 8)
    assert (packed_blocks(eight)[0].reshape(3, 48)[:, :40] == found.integers).all()


def correlated(inputs: int) -> np.ndarray:
    examples = RNG.standard_normal((400, inputs // 4)) @ RNG.standard_normal((inputs // 4, inputs))
    examples += 0.1 * RNG.standard_normal(examples.shape)
    examples[:, 3] = 0
    return examples


@pytest.mark.parametrize("levels", [(-7, 7), (-127, 127)])
def test_refined_rounding_loses_less_on_the_products(levels: tuple[int, int]) -> None:
    examples, weight = correlated(32), RNG.standard_normal((12, 32))
    moments = examples.T @ examples / len(examples)
    scales = np.abs(weight).max(1, keepdims=True) / levels[1]
    nearest = np.clip(np.rint(weight / scales), *levels)
    for function, share in ((gptq, 0.3), (adaround, 0.8)):
        found = function(weight, moments, scales, levels)
        assert found.min() >= levels[0]
        assert found.max() <= levels[1]
        ratio = loss(weight, found * scales, moments).sum() / loss(weight, nearest * scales, moments).sum()
        assert ratio < share
        # What the moments say is what the products lose.
        direct = np.square(examples @ (weight - found * scales).T).mean(0)
        assert np.allclose(direct, loss(weight, found * scales, moments))


def test_learned_rounding_goes_up_or_down_and_is_never_worse_than_the_nearest() -> None:
    examples, weight = correlated(16), RNG.standard_normal((6, 16))
    moments = examples.T @ examples / len(examples)
    scales = np.abs(weight).max(1, keepdims=True) / 7
    found = adaround(weight, moments, scales, (-7, 7), steps=60)
    assert (np.abs(found - weight / scales) <= 1).all()
    nearest = np.rint(weight / scales)
    assert (loss(weight, found * scales, moments) <= loss(weight, nearest * scales, moments) * (1 + 1e-9)).all()
