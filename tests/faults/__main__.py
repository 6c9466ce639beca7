"""The fault matrix: `python -m tests.faults [--seed N] [--kills 200] [--only NAME …]`. One line a row, then `N passed, N failed`."""

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from tests.faults import rows
from tests.faults.elsewhere import ELSEWHERE, run_tests
from tests.faults.full_disk import full_disk
from tests.faults.house import House
from tests.faults.parts import parts_house
from tests.faults.random_kills import FAILPOINTS, deadly_failpoint, random_kills
from tests.faults.rows_parts import PARTS, NotHere

H = TypeVar("H", bound=House)
Outcome = tuple[int, list[str], str | None]
"""How often a fault was injected, what promises were broken, and a figure."""
Run = Callable[[], Outcome]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--kills", type=int, default=200, help="processes to kill at random moments")
    parser.add_argument("--only", nargs="*", default=[], help="rows to run")
    arguments = parser.parse_args()
    _say(f"seed {arguments.seed}")
    _say(f"{'fault':<38} {'runs':>5} {'violations':>10} {'seconds':>8}")
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        folder = Path(name)
        for title, run in _all(folder, arguments.seed, arguments.kills):
            if not arguments.only or title in arguments.only:
                outcomes.append(_report(title, run))
    counted = Counter(outcomes)
    missing = f", {counted['not run']} not run" if counted["not run"] else ""
    _say(f"{counted['passed']} passed, {counted['failed']} failed{missing}")
    return 1 if counted["failed"] else 0


def _all(folder: Path, seed: int, kills: int) -> Iterator[tuple[str, Run]]:
    embedded = _Shared(_embedded, folder / "embedded")
    parts = _Shared(parts_house, folder / "parts")
    yield from ((row.__name__, partial(embedded.run, row)) for row in (*rows.QUICK, *rows.LONG))
    yield "random_kills", lambda: (*random_kills(embedded.open(), random.Random(seed), kills), None)
    yield "close", embedded.close
    yield from ((row.__name__, partial(parts.run, row)) for row in PARTS)
    yield "close_parts", parts.close
    yield from ((name, partial(deadly_failpoint, folder / name, name)) for name in FAILPOINTS)
    yield "full_disk", lambda: full_disk(folder / "full_disk")
    yield from ((name, partial(run_tests, nodes)) for name, nodes in ELSEWHERE.items())


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
    except NotHere as missing:
        _say(f"{title:<38} {0:>5} {0:>10} {0:>8.1f}  not run: {missing} is not here")
        return "not run"
    except Exception:
        runs, found, note = 1, [traceback.format_exc()], None
    _say(f"{title:<38} {runs:>5} {len(found):>10} {time.monotonic() - started:>8.1f}  {note or ''}".rstrip())
    for sentence in found:
        _say(f"    {sentence}")
    return "failed" if found else "passed"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
