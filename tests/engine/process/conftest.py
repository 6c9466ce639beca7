"""One parent of job children for all tests of a module, and a way to run a child to its end."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from engine.contract.events import Done, Event, parse_event
from engine.process.launcher import Exit, Launcher
from engine.process.request import Limits, Request

CHILDREN = "tests.engine.process.children"


@dataclass
class Ended:
    """What a child said until it ended."""

    directory: Path
    exit: Exit
    events: list[Event]
    log: str

    @property
    def result(self) -> dict[str, Any]:
        """Of its last event."""
        return result_of(self.events[-1], self.directory)


def result_of(event: Event, directory: Path) -> Any:
    """What stands in the file of a `done` event."""
    assert isinstance(event, Done)
    assert event.result is not None
    return json.loads(event.result.read(directory))


def run_to_end(launcher: Launcher, request: Request) -> Ended:
    """Start a child, read all that it says, wait for its end."""
    child = launcher.start(request)
    try:
        with open(child.events, "rb", closefd=False) as events, open(child.log, "rb", closefd=False) as log:
            lines, text = events.read().splitlines(), log.read().decode()
        exit_ = child.wait(10)
        assert exit_ is not None
        return Ended(request.directory, exit_, [parse_event(line) for line in lines], text)
    finally:
        child.close()


@pytest.fixture(scope="module")
def cold() -> Iterator[Launcher]:
    os.environ["MODELPRESS_DATABASE_URL"] = "postgresql://user:secret@host/db"  # what no child may see
    launcher = Launcher(warm=False)
    try:
        yield launcher
    finally:
        launcher.close()
        del os.environ["MODELPRESS_DATABASE_URL"]


@pytest.fixture
def run(cold: Launcher, tmp_path: Path) -> Callable[..., Ended]:
    def run_child(entry: str, *layers: str, **limits: int) -> Ended:
        return run_to_end(cold, Request(tmp_path, entry=f"{CHILDREN}:{entry}", layers=layers, limits=Limits(**limits)))

    return run_child
