"""Fixtures of the tests of early exits."""

import pytest
from torch import nn

from engine.methods.dynamic import early_exit
from tests.engine.methods.dynamic.exits import small_msdnet


@pytest.fixture
def unwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes most of the time: no stage is written."""
    for name in ("publish_stages", "check_stages"):
        monkeypatch.setattr(early_exit, name, lambda *_, **__: None)


@pytest.fixture(scope="module")
def msdnet() -> nn.Module:
    return small_msdnet()
