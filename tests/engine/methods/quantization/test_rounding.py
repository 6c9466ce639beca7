import numpy as np
import pytest

from engine.methods.quantization.rounding import bias_fits, portable_scales, rounded, rounded_weight, scaling, weight_scales, within_pairs
from tests.engine.methods.quantization.checking import pair_sum


def widened(values: np.ndarray, low: float, high: float, **options: object) -> np.ndarray:
    how = scaling(low, high, **{"symmetric": False, **options})  # type: ignore[arg-type]
    return (rounded(values, how).astype(np.float64) - int(how.zero_point)) * float(how.scale)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 1e-30), (-1e30, 2e30)])
def test_numbers_in_the_range_come_back_to_within_half_a_step_and_zero_exactly(low: float, high: float, symmetric: bool) -> None:
    values = np.linspace(low, high, 997)
    width = 2 * max(abs(low), abs(high)) / 254 if symmetric else (max(high, 0) - min(low, 0)) / 255
    # The zero point is rounded too, which moves the ends by half a step.
    assert np.abs(widened(values, low, high, symmetric=symmetric) - values).max() <= width * 1.001
    assert widened(np.zeros(1), low, high, symmetric=symmetric) == 0


def test_a_range_of_nothing_but_zero_has_the_scale_one() -> None:
    for high in (0.0, 1e-42):
        assert scaling(0.0, high, symmetric=False).scale == 1


@pytest.mark.parametrize("high", [6.0, 1.0, 0.3, 5.999])
def test_the_largest_stored_number_stays_within_the_clip_before_it(high: float) -> None:
    assert scaling(0.0, high, symmetric=False, at_most=high).bounds[1] <= np.float32(high)


def test_channels_are_the_nearest_multiples_of_their_scales() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32) * np.float32([1, 10, 0.1, 0]).reshape(4, 1, 1, 1)
    scales = weight_scales(weight, 0, 127)
    values = rounded_weight(weight, scales, 0, 127)
    errors = np.abs(values * scales.reshape(4, 1, 1, 1) - weight).reshape(4, -1).max(axis=1)
    assert (errors <= scales / 2 * 1.0001).all()
    assert np.abs(values).reshape(4, -1).max(axis=1).tolist() == [127, 127, 127, 0]


def test_a_scale_for_all_is_that_of_the_largest_weight() -> None:
    weight = np.float32([[1, -4], [2, 3]])
    assert weight_scales(weight, None, 64) == np.float32(4 / 64)
    assert rounded_weight(weight, weight_scales(weight, None, 64), None, 64).tolist() == [[16, -64], [32, 48]]


def test_weights_get_coarser_where_a_bias_would_not_fit_into_32_bits() -> None:
    scales = np.float32([1e-3, 1e-3])
    found = bias_fits(np.float32([1.0, 1e6]), scales, np.float32(1e-4))
    assert found[0] == scales[0]
    assert 1e6 / (found[1] * 1e-4) <= 2**30 * 1.001
    assert bias_fits(np.float32([1.0, 1e6]), np.float32(1e-3), np.float32(1e-4)).shape == ()


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("draw", ["normal", "one_outlier", "two_outliers", "ties", "one_element"])
def test_portable_weights_never_add_up_to_more_than_128(draw: str, axis: int | None) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((8, 1 if draw == "one_element" else 8)).astype(np.float32)
    if draw == "one_outlier":
        weight[np.arange(8), rng.permutation(8)] *= 50
    if draw == "two_outliers":
        weight[:, :2] = 9.0
    if draw == "ties":
        weight = np.sign(weight) * np.float32(1 / 3)
    scales = portable_scales(weight, axis)
    integers = rounded_weight(weight, scales, axis, 127)
    if axis is None:
        order = np.sort(np.maximum([integers.reshape(-1), -integers.reshape(-1)], 0).astype(int), axis=1)
        assert order[:, -2:].sum(1).max() <= 128
    else:
        rows = np.pad(np.moveaxis(integers.astype(int), axis, 0), ((0, 0), (0, integers.shape[1 - axis] % 2)))
        assert max((np.maximum(side[:, 0::2], 0) + np.maximum(side[:, 1::2], 0)).max() for side in (rows, -rows)) <= 128
    shape = () if axis is None else (-1, 1) if axis == 0 else (1, -1)
    assert np.abs(integers * scales.reshape(shape) - weight).max() <= 0.5001 * scales.max()
    # Never coarser than seven bits for all, and as fine as eight where a weight stands alone.
    assert (scales <= weight_scales(weight, axis, 64) * 1.001).all()
    assert (scales >= weight_scales(weight, axis, 127) * 0.999).all()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(6, 9), (4, 6, 3, 3), (4, 5, 3)])
def test_integers_that_would_saturate_give_up_no_more_than_they_have_to(shape: tuple[int, ...], axis: int) -> None:
    integers = np.random.default_rng(0).integers(-127, 128, shape).astype(np.int8)
    kept = within_pairs(integers, axis)
    assert kept.shape == integers.shape
    assert kept.dtype == np.int8
    assert pair_sum(np.moveaxis(kept, axis, 0)) <= 128
    assert (np.abs(kept.astype(int)) <= np.abs(integers.astype(int))).all()
    assert (np.sign(kept) * np.sign(integers) >= 0).all()
    assert (kept == integers).mean() > 0.6
    assert (within_pairs(kept, axis) == kept).all()
