"""Whether a missed target fails the job, and what its error says."""

from typing import Any, Literal

import pytest

from engine.contract.figures import Result
from engine.contract.spec import Constraints
from engine.jobs.verdict import missed
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
