"""Whatever dies in the middle of a job, the job succeeds or says why it did not. On the whole real service."""

from collections.abc import Iterator

import pytest

from tests.faults.house import House
from tests.faults.rows import QUICK, Row

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = House(tmp_path_factory.mktemp("house"))
    try:
        house.wait_until_ready()
        yield house
    finally:
        house.close()


@pytest.mark.parametrize("row", QUICK, ids=lambda row: row.__name__)
def test_the_promises_hold(house: House, row: Row) -> None:
    row(house)
    house.wait_until_whole()
    assert house.broken_promises(load_artifacts=row is QUICK[-1]) == []
