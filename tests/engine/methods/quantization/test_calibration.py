import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from engine.formats.onnx.runtime import Feed
from engine.methods.quantization.calibration import observer
from engine.methods.quantization.histograms import entropy_threshold, percentile_range
from engine.methods.quantization.spec import Calibration
from tests.engine.small import save


@pytest.fixture
def scaled(tmp_path: Path) -> Path:
    """doubled = 2x, y = relu(doubled)."""
    nodes = [helper.make_node("Mul", ["x", "two"], ["doubled"], "mul"), helper.make_node("Relu", ["doubled"], ["y"], "relu")]
    path = save(tmp_path / "net.onnx", nodes, {"two": np.float32([2])}, {"x": ["batch", 50]}, {"y": ["batch", 50]})
    onnx.save(onnx.shape_inference.infer_shapes(onnx.load(path)), path)
    return path


VALUES = np.random.default_rng(0).standard_normal((64, 50)).astype(np.float32) * np.linspace(0.5, 3, 64, dtype=np.float32)[:, None]


def ranges(path: Path, batch_size: int, values: np.ndarray = VALUES, **params: object) -> dict[str, tuple[float, float]]:
    def feeds(size: int) -> Iterator[Feed]:
        for start in range(0, len(values), size):
            yield {"x": values[start : start + size]}

    found = observer(path, feeds, Calibration(batch_size=batch_size, **params), threads=1)  # type: ignore[arg-type]
    found.observe(["x", "doubled", "y"])
    return found.ranges


def test_minmax_is_the_extremes_of_all_batches(scaled: Path) -> None:
    found = ranges(scaled, 7)
    assert found["x"] == (VALUES.min(), VALUES.max())
    assert found["doubled"] == (2 * VALUES.min(), 2 * VALUES.max())
    assert found["y"] == (0, 2 * VALUES.max())


@pytest.mark.parametrize("observer", ["minmax", "percentile", "entropy"])
def test_the_batch_size_does_not_change_the_result(scaled: Path, observer: str) -> None:
    one, seven, all_ = (ranges(scaled, size, observer=observer, percentile=99.0) for size in (1, 7, 64))
    assert one == seven == all_


def test_percentile_keeps_the_wanted_share_and_no_more(scaled: Path) -> None:
    low, high = ranges(scaled, 16, observer="percentile", percentile=90.0)["doubled"]
    kept = ((low <= 2 * VALUES) & (high >= 2 * VALUES)).mean()
    assert 0.90 <= kept < 0.91
    assert math.isclose((low > 2 * VALUES).mean(), (high < 2 * VALUES).mean(), abs_tol=0.01)


def test_a_hundred_percent_is_minmax(scaled: Path) -> None:
    everything, extremes = ranges(scaled, 16, observer="percentile", percentile=100.0), ranges(scaled, 16)
    assert all(everything[name] == pytest.approx(extremes[name]) for name in extremes)


def test_percentile_ignores_a_lone_outlier() -> None:
    counts = np.zeros(2048, np.int64)
    counts[:100], counts[-1] = 1000, 1
    assert percentile_range(counts, (0.0, 2048.0), 99.9)[1] <= 101
    assert percentile_range(counts, (0.0, 2048.0), 100.0) == (0.0, 2048.0)


def test_entropy_cuts_a_thin_tail_and_keeps_a_flat_distribution() -> None:
    magnitudes = np.abs(np.random.default_rng(0).standard_normal(200_000))
    tail = np.concatenate([magnitudes, [40.0]])
    kept = entropy_threshold(np.histogram(tail, 2048, range=(0, 40))[0]) * 40
    assert 2.5 < kept < 12
    assert entropy_threshold(np.full(2048, 100)) > 0.9


def test_entropy_stays_within_what_was_seen(scaled: Path) -> None:
    seen, found = ranges(scaled, 16), ranges(scaled, 16, observer="entropy")
    assert all(seen[name][0] <= low <= high <= seen[name][1] for name, (low, high) in found.items())


def test_values_that_are_not_finite_have_no_range(scaled: Path) -> None:
    found = ranges(scaled, 16, np.full((2, 50), 3e38, np.float32))
    assert np.isnan(found["doubled"]).all()
    assert np.array_equal(found["x"], np.float32([3e38, 3e38]))
