"""The entropy observer beside ONNX Runtime's search over histograms."""

import numpy as np
import pytest
from onnxruntime.quantization.calibrate import HistogramCollector

from engine.methods.quantization.histograms import BINS, entropy_threshold, mse_range

RNG = np.random.default_rng(0)
DRAWN = {
    "normal": RNG.standard_normal(100_000),
    "laplace": RNG.laplace(size=100_000),
    "rectified": np.maximum(RNG.standard_normal(100_000), 0),
    "one outlier": np.concatenate([RNG.standard_normal(100_000), [40.0]]),
    "two lumps": np.concatenate([RNG.normal(1, 0.1, 50_000), RNG.normal(9, 0.1, 50_000)]),
    "far from zero": RNG.uniform(5, 6, 100_000),
    "few far from zero": RNG.uniform(5, 6, 12),
    "few": RNG.standard_normal(40),
    "one number": np.full(100, 7.0),
}


def kept_decibels(values: np.ndarray, threshold: float) -> float:
    """Signal over error of values in 255 signed steps up to a threshold."""
    step = threshold / 127
    error = np.clip(np.rint(values / step), -127, 127) * step - values
    return float(10 * np.log10(np.square(values).sum() / max(np.square(error).sum(), 1e-30)))


def ours(values: np.ndarray) -> float:
    peak = float(np.abs(values).max())
    return entropy_threshold(np.histogram(np.abs(values), BINS, range=(0, peak))[0]) * peak


def reference(values: np.ndarray) -> float:
    peak = float(np.abs(values).max())
    collector = HistogramCollector("entropy", symmetric=True, num_bins=513, num_quantized_bins=128, percentile=99.9, scenario="same")
    counts, edges = np.histogram(values, 513, range=(-peak, peak))
    return float(collector.get_entropy_threshold((counts, edges, values.min(), values.max(), peak), 128)[1])


@pytest.mark.parametrize("name", [name for name in DRAWN if name != "one outlier"])
def test_as_much_is_kept_as_by_the_reference_and_nothing_collapses(name: str) -> None:
    values = DRAWN[name]
    kept = kept_decibels(values, ours(values))
    assert kept > 25
    if len(values) > 100:
        assert kept > kept_decibels(values, reference(values)) - 1


def test_a_lone_outlier_is_clipped() -> None:
    assert ours(DRAWN["one outlier"]) < 10
    assert kept_decibels(DRAWN["one outlier"][:-1], ours(DRAWN["one outlier"])) > kept_decibels(DRAWN["one outlier"][:-1], 40.0) + 10


def test_nothing_but_zeros_has_no_threshold() -> None:
    assert entropy_threshold(np.eye(1, BINS, dtype=np.int64)[0]) == 1.0


@pytest.mark.parametrize("name", list(DRAWN))
def test_the_range_of_least_error_loses_no_more_than_the_whole_one(name: str) -> None:
    values = DRAWN[name]
    extrema = float(values.min()), float(values.max())

    def error(low: float, high: float) -> float:
        low, high = min(low, 0.0), max(high, 0.0)
        step = max(high - low, 1e-30) / 255
        return float(np.square(np.rint((np.clip(values, low, high) - low) / step) * step + low - values).mean())

    found = mse_range(np.histogram(values, BINS, range=extrema if extrema[1] > extrema[0] else (7.0, 8.0))[0], extrema)
    assert extrema[0] <= found[0] <= found[1] <= extrema[1]
    assert error(*found) <= 1.05 * error(*extrema) + 1e-12
    if name == "one outlier":
        assert error(*found) < 0.9 * error(*extrema)
