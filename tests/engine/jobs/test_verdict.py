"""Whether a missed target fails the job, and what its error says."""

from pathlib import Path
from typing import Any, Literal

import pytest

from engine.contract.figures import Result, Setting, Speed, Timing
from engine.contract.spec import Constraints
from engine.jobs.publication import MeasuredFile
from engine.jobs.verdict import judged, missed
from engine.measuring.examiner.messages import Score
from engine.measuring.measurement import FileSizes
from engine.networks.network import Counts
from tests.engine.contract.test_constraints import figures, settings_of


def result(target: Constraints, **each: Any) -> Result:
    settings = settings_of(target, **each)
    return Result(baseline=figures(), settings=tuple(settings), judged_setting=settings[0].setting.name)


@pytest.mark.parametrize(
    ("policy", "macs", "fails"), [("fail", 500, False), ("fail", 700, True), ("keep_best", 500, False), ("keep_best", 700, False)]
)
def test_only_a_missed_target_fails_a_job_and_only_where_it_is_to(policy: Literal["fail", "keep_best"], macs: int, fails: bool) -> None:
    target = Constraints(max_macs_count=600, max_file_bytes=10**9, on_violation=policy)
    error = missed(result(target, wide=figures(macs_count=macs)), target)
    assert (error is not None) == fails
    if error is not None:
        assert (error.code, error.category) == ("constraints_not_met", "user")
        assert error.message == f"Missed by wide: max_macs_count is {macs}, the limit is 600."
        assert [item["name"] for item in error.details["constraints"]] == ["max_file_bytes", "max_macs_count"]


def test_without_targets_nothing_is_missed() -> None:
    assert missed(result(Constraints(), only=figures()), None) is None


def timing(batch_size: int, word: Literal["faster", "same"]) -> Timing:
    latency = figures().latency_ms.model_copy(update={"batch_size": batch_size})
    speed = Speed(batch_size=batch_size, speedup=1.0, speedup_low=0.9, speedup_high=1.1, verdict=word)
    return Timing(baseline=latency, result=latency, speed=speed)


def test_a_file_is_as_fast_as_at_the_first_batch_size() -> None:
    score = Score(metrics={"test.top1": 0.98}, examples_count=10, shapes={})
    file = MeasuredFile(Setting(), Path("model.onnx"), score, (timing(1, "same"), timing(8, "faster")), Counts(10, 9, 700), FileSizes(5, 4))
    target = Constraints(max_macs_count=600)
    found = judged([file], [figures()], target, "test")
    assert found.first.verdict.speed == "same"
    assert [item.batch_size for item in found.first.comparison.latencies] == [1, 8]
    assert (found.outcome, found.first.figures.params_count) == ("constraints_not_met", 10)
    assert (found.first.figures.file_bytes, found.first.figures.gzip_bytes) == (5, 4)
