import pytest

from engine.measuring.figures import comparison, expected_work, figures, shares
from engine.methods.distillation.spec import Distillation
from engine.methods.pruning.spec import StructuredPruning


def test_both_sides_have_the_same_keys_and_ratios_compare_them() -> None:
    latencies = [
        {
            "batch_size": b,
            "baseline": {"p50": 2.0 * b},
            "result": {"p50": 1.0 * b},
            "speedup": 2.0,
            "speedup_low": 1.9,
            "speedup_high": 2.1,
            "verdict": "faster",
        }
        for b in (1, 8)
    ]
    counts = {"params_count": 100, "nonzero_params_count": 100, "macs_count": 0}
    before = figures({"test.top1": 0.9}, {"file_bytes": 400, "gzip_bytes": 300}, counts, latencies, "baseline")
    after = figures({"test.top1": 0.8}, {"file_bytes": 100, "gzip_bytes": 100}, {**counts, "params_count": 50}, latencies, "result")
    assert before.keys() == after.keys()
    assert before["latency_ms"] == {"p50": 2.0}
    assert [item["p50"] for item in after["latencies"]] == [1.0, 8.0]
    compared = comparison(before, after, latencies)
    assert (compared["file_ratio"], compared["gzip_ratio"], compared["params_ratio"]) == (4, 3, 2)
    assert compared["macs_ratio"] is None
    assert compared["metric_changes"] == {"test.top1": pytest.approx(-0.1)}
    assert [item["verdict"] for item in compared["latencies"]] == ["faster", "faster"]


def test_shares_cover_the_span_in_proportion() -> None:
    assert shares([1, 3], 0.2, 1.0) == [(0.2, pytest.approx(0.4)), (pytest.approx(0.4), pytest.approx(1.0))]


def test_long_training_is_expected_to_take_longer() -> None:
    tuned = StructuredPruning(finetune={"epochs": 2}, iterations=3)  # type: ignore[arg-type]
    assert expected_work(tuned) - expected_work(StructuredPruning()) == 6
    assert expected_work(Distillation(epochs=4)) > expected_work(Distillation(epochs=1))
    assert expected_work(Distillation(iterations=1000)) > expected_work(StructuredPruning())
