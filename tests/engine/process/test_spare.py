"""A child that is ready before its request comes: as confined as any other, and never missed where it is gone or does not answer."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.process.launcher import Launcher
from engine.process.request import NAMESPACES, Request
from engine.process.sandbox.attempts import BEYOND_TIER_1
from engine.process.sandbox.isolation import LAYERS
from engine.process.sandbox.probe import probe
from tests.engine.process.conftest import CHILDREN, run_to_end
from tests.engine.process.test_launcher import gone
from tests.faults.house import is_spare

TIERS = pytest.mark.parametrize("layers", [LAYERS, (NAMESPACES, *LAYERS)], ids=["tier 1", "tier 2"])


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    launcher = Launcher(warm=False)
    try:
        yield launcher
    finally:
        launcher.close()


def spare_of(launcher: Launcher) -> int:
    """Process id of the child that is ready; waits for it."""
    parent, deadline = launcher.parent_pid, time.monotonic() + 10
    while time.monotonic() < deadline:
        for pid in map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()):
            if is_spare(pid):
                return pid
        time.sleep(0.02)
    raise AssertionError("no child was made ready")


def sign(launcher: Launcher, directory: Path, layers: tuple[str, ...]) -> None:
    ended = run_to_end(launcher, Request(directory, entry=f"{CHILDREN}:sign_in", layers=layers))
    assert ended.exit.returncode == 0, ended.log


@TIERS
def test_it_is_as_confined_as_a_child_that_is_forked_for_its_request(launcher: Launcher, layers: tuple[str, ...]) -> None:
    open_lines = {name for name, answer in (probe(launcher, layers) or {}).items() if answer == "open"}
    spare = spare_of(launcher)
    answers = probe(launcher, layers)
    assert gone(spare)  # it was the one that tried
    assert answers is not None
    assert len(answers) >= 28
    assert (
        {name for name, answer in answers.items() if answer == "open"} == open_lines == (set() if NAMESPACES in layers else BEYOND_TIER_1)
    )


@TIERS
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_one_that_is_gone_or_does_not_answer_is_not_waited_for(
    launcher: Launcher, tmp_path: Path, layers: tuple[str, ...], number: signal.Signals
) -> None:
    sign(launcher, tmp_path, layers)
    spare = spare_of(launcher)
    os.killpg(spare, number)
    began = time.monotonic()
    sign(launcher, tmp_path, layers)
    assert time.monotonic() - began < 5
    assert gone(spare)
    assert (tmp_path / "signatures").read_text() == "xx"


def test_one_of_another_kind_is_of_no_use(launcher: Launcher, tmp_path: Path) -> None:
    sign(launcher, tmp_path, LAYERS)
    spare = spare_of(launcher)
    sign(launcher, tmp_path, (NAMESPACES, *LAYERS))
    assert gone(spare)
    assert (tmp_path / "signatures").read_text() == "xx"
    assert spare_of(launcher) != spare


def test_it_goes_with_its_parent(launcher: Launcher, tmp_path: Path) -> None:
    sign(launcher, tmp_path, LAYERS)
    spare, parent = spare_of(launcher), launcher.parent_pid
    assert parent is not None
    os.kill(parent, signal.SIGKILL)
    assert gone(spare, seconds=5)
