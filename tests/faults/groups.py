"""The rows of the fault matrix in groups, each of which can run beside the others."""

import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from tests.faults import rows
from tests.faults.elsewhere import ELSEWHERE, run_tests
from tests.faults.full_disk import full_disk
from tests.faults.house import House
from tests.faults.parts import parts_house
from tests.faults.random_kills import FAILPOINTS, deadly_failpoint, random_kills
from tests.faults.rows_parts import PARTS
from tests.faults.rows_stops import STOPS
from tests.faults.webhooks import webhook_kills

H = TypeVar("H", bound=House)
Outcome = tuple[int, list[str], str | None]
"""How often a fault was injected, what promises were broken, and a figure."""
Run = Callable[[], Outcome]
CLOSE = "close"
"""The last row of a group that has a service: it stops in good order."""


@dataclass(frozen=True)
class Plan:
    """What is to run, and where."""

    folder: Path
    seed: int
    kills: int
    only: tuple[str, ...]


def _at_random(plan: Plan) -> Iterator[tuple[str, Run]]:
    house = _Shared(_embedded, plan.folder / "at_random")
    yield "random_kills", lambda: (*random_kills(house.open(), random.Random(plan.seed), plan.kills), None)
    yield CLOSE, house.close


def _rows(plan: Plan) -> Iterator[tuple[str, Run]]:
    house = _Shared(_embedded, plan.folder / "embedded")
    yield from ((row.__name__, partial(house.run, row)) for row in (*rows.QUICK, *rows.LONG))
    yield CLOSE, house.close


def _rows_parts(plan: Plan) -> Iterator[tuple[str, Run]]:
    house = _Shared(parts_house, plan.folder / "parts")
    yield from ((row.__name__, partial(house.run, row)) for row in PARTS)
    yield CLOSE, house.close


def _stops(plan: Plan) -> Iterator[tuple[str, Run]]:
    house = _Shared(_embedded, plan.folder / "stops")
    yield from ((row.__name__, partial(house.run, row)) for row in STOPS)
    yield CLOSE, house.close


def _failpoints(plan: Plan) -> Iterator[tuple[str, Run]]:
    yield from ((name, partial(deadly_failpoint, plan.folder / name, name)) for name in FAILPOINTS)


def _elsewhere(_: Plan) -> Iterator[tuple[str, Run]]:
    yield from ((name, partial(run_tests, nodes)) for name, nodes in ELSEWHERE.items())


def _full_disk(plan: Plan) -> Iterator[tuple[str, Run]]:
    yield "full_disk", lambda: full_disk(plan.folder / "full_disk")


def _webhooks(plan: Plan) -> Iterator[tuple[str, Run]]:
    house = _Shared(_embedded, plan.folder / "webhooks")
    rng = random.Random(plan.seed)
    yield "webhook_kills", lambda: (*webhook_kills(house.open(), rng, jobs=max(1, plan.kills // 2), kills=plan.kills), None)
    yield CLOSE, house.close


GROUPS = {group.__name__: group for group in (_at_random, _webhooks, _elsewhere, _rows, _failpoints, _rows_parts, _stops, _full_disk)}
"""Rows that share a service, or none; the longest first."""


def wanted(plan: Plan, name: str) -> list[tuple[str, Run]]:
    """Rows of a group that are to run, and the end of their service."""
    group = list(GROUPS[name](plan))
    if not plan.only:
        return group
    wanted = [row for row in group if row[0] in plan.only]
    return wanted and wanted + [row for row in group if row[0] == CLOSE]


def run_group(plan: Plan, name: str) -> list[str]:
    """In a process of its own."""
    return [_report(title, run) for title, run in wanted(plan, name)]


@contextmanager
def _embedded(folder: Path) -> Iterator[House]:
    house = House(folder, workers=2)
    try:
        house.wait_until_ready()
        yield house
    finally:
        house.close()


class _Shared(Generic[H]):
    """One house for all rows that leave it whole; built when it is needed, and anew after a row that failed."""

    def __init__(self, build: Callable[[Path], AbstractContextManager[H]], folder: Path) -> None:
        self._build, self._folder = build, folder
        self._house: H | None = None
        self._stack = ExitStack()
        self._built = 0

    def run(self, row: Callable[[H], str | None]) -> Outcome:
        house = self.open()
        try:
            note = row(house)
            house.wait_until_whole()
            return 1, house.broken_promises(load_artifacts=True), note
        except BaseException:
            self.close()
            raise

    def close(self) -> Outcome:
        self._stack.close()
        self._house = None
        return 1, [], None

    def open(self) -> H:
        if self._house is None:
            self._built += 1
            folder = self._folder / str(self._built)
            folder.mkdir(parents=True)
            self._house = self._stack.enter_context(self._build(folder))
        return self._house


def _report(title: str, run: Run) -> str:
    started = time.monotonic()
    try:
        runs, found, note = run()
    except Exception:
        runs, found, note = 1, [traceback.format_exc()], None
    line = f"{title:<38} {runs:>5} {len(found):>10} {time.monotonic() - started:>8.1f}  {note or ''}".rstrip()
    say("\n    ".join([line, *found]))
    return "failed" if found else "passed"


def say(line: str) -> None:
    """Print it at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
