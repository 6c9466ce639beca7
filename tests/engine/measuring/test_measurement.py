import gzip
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper

from engine.contract.figures import QUANTILES
from engine.formats.onnx import runtime
from engine.measuring import measurement
from engine.measuring.examples import RandomExamples, SplitExamples
from engine.measuring.measurement import file_sizes, order_statistics, paired_ratio, timings, verdict
from tests.engine.small import save


def product(path: Path, width: int, depth: int = 1) -> ort.InferenceSession:
    """`depth` square matrix products."""
    rng = np.random.default_rng(0)
    names = ["x", *(f"h{i}" for i in range(depth - 1)), "y"]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]], f"m{i}") for i in range(depth)]
    weights = {f"w{i}": rng.standard_normal((width, width)).astype(np.float32) for i in range(depth)}
    return runtime.open_session(save(path, nodes, weights, {"x": ["batch", width]}, {"y": ["batch", width]}), threads=1)


def test_less_work_is_faster_and_more_work_is_slower(tmp_path: Path) -> None:
    little, much = product(tmp_path / "little.onnx", 256), product(tmp_path / "much.onnx", 256, depth=12)
    examples = RandomExamples(much, seed=0)
    (one,) = timings([much, little], examples, [4], threads=1, repeats=60)
    assert one.speed.verdict == "faster"
    assert one.speed.speedup > 3
    assert one.speed.speedup_low <= one.speed.speedup <= one.speed.speedup_high
    assert one.baseline.p50 > one.result.p50 > 0
    assert one.baseline.p95 >= one.baseline.p50
    assert (one.result.batch_size, one.result.threads, one.result.runs_count, one.speed.batch_size) == (4, 1, 60, 4)
    assert "onnxruntime" in one.result.runtime
    (other,) = timings([little, much], examples, [4], threads=1, repeats=60)
    assert other.speed.verdict == "slower"


def test_a_file_is_as_fast_as_itself(tmp_path: Path) -> None:
    session = product(tmp_path / "net.onnx", 256, depth=4)
    for entry in timings([session, session], RandomExamples(session, seed=0), [1, 8], threads=1, repeats=200):
        assert entry.speed.verdict == "same"


class Machine:
    """Two files on a machine where whoever runs second of a pair takes twice as long; its clock is the one that is read."""

    def __init__(self) -> None:
        self.now, self.runs = 0.0, 0

    def perf_counter(self) -> float:
        return self.now

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="x", shape=["batch", 2], type="tensor(float)")]

    def run(self, outputs: None, feed: object) -> list[np.ndarray]:
        self.now += 0.002 if self.runs % 2 else 0.001
        self.runs += 1
        return [np.zeros((1, 2), np.float32)]


@pytest.mark.parametrize("repeats", [6, 40])
def test_neither_file_always_goes_first(monkeypatch: pytest.MonkeyPatch, repeats: int) -> None:
    machine = Machine()
    monkeypatch.setattr(measurement, "time", machine)
    (entry,) = timings([machine, machine], RandomExamples(machine, seed=0), [1], threads=1, repeats=repeats)  # type: ignore[list-item,arg-type]
    assert entry.speed.speedup == pytest.approx(1.0)
    assert entry.speed.verdict == "same"
    assert entry.baseline.p50 == pytest.approx(entry.result.p50)
    middle = entry.baseline.quantiles[QUANTILES.index(0.5)]
    assert middle == pytest.approx(entry.baseline.p50, rel=1e-3) == pytest.approx(1.5, rel=0.4)


def test_time_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "SECONDS_PER_BATCH_SIZE", 0.2)
    session = product(tmp_path / "net.onnx", 256, depth=8)
    begin = time.perf_counter()
    (entry,) = timings([session, session], RandomExamples(session, seed=0), [64], threads=1, repeats=100_000)
    assert time.perf_counter() - begin < 2
    assert measurement.MIN_RUNS <= entry.result.runs_count < 100_000


def test_a_fixed_batch_is_the_one_that_is_measured(tmp_path: Path) -> None:
    weights = {"w": np.eye(4, dtype=np.float32)}
    path = save(tmp_path / "fixed.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"], "m")], weights, {"x": [3, 4]}, {"y": [3, 4]})
    session = runtime.open_session(path, threads=1)
    assert [e.result.batch_size for e in timings([session, session], RandomExamples(session, seed=0), [1, 8], threads=1, repeats=5)] == [3]


@pytest.mark.parametrize("count", [6, 10, 20, 50])
def test_order_statistics_cover_the_median(count: int) -> None:
    low, high = order_statistics(count)
    outside = sum(math.comb(count, k) for k in range(low + 1)) * 0.5**count
    assert high == count - 1 - low
    assert 1 - 2 * outside >= 0.95
    narrower = sum(math.comb(count, k) for k in range(low + 2)) * 0.5**count
    assert 1 - 2 * narrower < 0.95


def test_a_ratio_of_pairs_is_not_moved_by_a_busy_machine() -> None:
    rng = np.random.default_rng(0)
    load = 1 + 5 * (rng.random(400) < 0.3)
    noise = [np.exp(0.05 * rng.standard_normal(400)) for _ in range(2)]
    middle, low, high = paired_ratio(2.0 * load * noise[0], 1.0 * load * noise[1])
    assert low <= middle <= high
    assert middle == pytest.approx(2.0, rel=0.02)
    assert verdict(low, high) == "faster"


def test_an_interval_that_reaches_one_decides_nothing() -> None:
    assert verdict(0.97, 1.4) == "same"
    assert verdict(1.01, 1.04) == "same"
    assert verdict(1.06, 1.10) == "faster"
    assert verdict(0.80, 0.94) == "slower"


def test_sizes_are_those_of_the_file_and_of_gzip(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(3_000_000) + np.random.default_rng(0).bytes(10_000))
    sizes = file_sizes(path)
    assert sizes.file_bytes == 3_010_000
    assert sizes.gzip_bytes == pytest.approx(len(gzip.compress(path.read_bytes(), 6, mtime=0)), abs=64)


class DependentMachine(Machine):
    """The baseline takes ten seconds; the result one for an easy input and five for a hard one, which every fourth is."""

    def __init__(self, *, baseline: bool, clock: list[float]) -> None:
        self.baseline, self.clock = baseline, clock

    def perf_counter(self) -> float:
        return self.clock[0]

    def run(self, outputs: None, feed: Any) -> list[np.ndarray]:
        self.clock[0] += 10.0 if self.baseline else float(feed["x"][0, 0])
        return [np.zeros((1, 2), np.float32)]


class Quarter:
    """Inputs that hold how long they take."""

    name, count = "test", 8

    def feeds(self, size: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
        for number in itertools.count():
            yield {"x": np.full((size, 2), 5.0 if number % 4 == 1 else 1.0)}


def test_where_the_input_decides_every_pair_has_its_own_and_means_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    machines = [DependentMachine(baseline=True, clock=clock), DependentMachine(baseline=False, clock=clock)]
    monkeypatch.setattr(measurement, "time", machines[0])
    monkeypatch.setattr(measurement, "SECONDS_PER_BATCH_SIZE", 1e9)
    (entry,) = timings(machines, Quarter(), [1], threads=1, repeats=80, varied=True)  # type: ignore[arg-type]
    assert entry.speed.speedup == pytest.approx(10 / 2)
    assert entry.speed.speedup_low == pytest.approx(5) == entry.speed.speedup_high
    assert (entry.result.p10, entry.result.p50, entry.result.p90, entry.result.mean) == pytest.approx((1000, 1000, 5000, 2000))
    assert (entry.result.inputs_count, entry.result.runs_count) == (80, 240)
    assert entry.result.typical == pytest.approx(2000)
    assert entry.baseline.mean == pytest.approx(10_000)
    monkeypatch.setattr(measurement, "SECONDS_PER_BATCH_SIZE", 0)
    (entry,) = timings(machines, Quarter(), [1], threads=1, repeats=80, varied=True)  # type: ignore[arg-type]
    assert entry.result.inputs_count == measurement.MIN_RUNS


def test_all_inputs_are_timed_before_any_comes_again() -> None:
    split = SimpleNamespace(count=10, batch=lambda rows: ({"x": rows}, {}))
    session = SimpleNamespace(get_inputs=lambda: [SimpleNamespace(shape=["n"])])
    feeds = SplitExamples("test", split, session).feeds(5, seed=3)  # type: ignore[arg-type]
    first = np.concatenate([next(feeds)["x"], next(feeds)["x"]])
    assert sorted(first) == list(range(10))
    assert list(first) != list(range(10))
