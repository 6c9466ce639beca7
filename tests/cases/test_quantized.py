"""Small networks that once came out wrong, quantized: each job ends as it must."""

from pathlib import Path

import pytest

from tests.cases.running import cases, faults


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cases")


@pytest.mark.parametrize(("case", "job"), cases(quantized=True))
def test_the_job_comes_out_right(case: str, job: str, root: Path) -> None:
    assert faults(case, job, root) == []
