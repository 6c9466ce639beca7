"""The fault matrix: `python -m tests.faults [--seed N] [--kills 200] [--only NAME …]`. One line a row, then `N passed, N failed`."""

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.faults import rows
from tests.faults.house import House
from tests.faults.random_kills import FAILPOINTS, deadly_failpoint, random_kills


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--kills", type=int, default=200, help="processes to kill at random moments")
    parser.add_argument("--only", nargs="*", default=[], help="rows to run")
    arguments = parser.parse_args()
    _say(f"seed {arguments.seed}")
    _say(f"{'fault':<28} {'runs':>5} {'violations':>10} {'seconds':>8}")
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        folder = Path(name)
        for title, run in _all(folder, arguments.seed, arguments.kills):
            if not arguments.only or title in arguments.only:
                outcomes.append(_report(title, run))
    _say(f"{sum(outcomes)} passed, {len(outcomes) - sum(outcomes)} failed")
    return 0 if all(outcomes) else 1


def _all(folder: Path, seed: int, kills: int) -> list[tuple[str, Callable[[], tuple[int, list[str]]]]]:
    shared = _Shared(folder / "shared")
    named = [(row.__name__, lambda row=row: shared.run(row)) for row in (*rows.QUICK, *rows.LONG)]
    points = [(name, lambda name=name: deadly_failpoint(folder / name, name)) for name in FAILPOINTS]
    return [*named, ("random_kills", lambda: shared.kill(seed, kills)), ("close", shared.close), *points]


class _Shared:
    """One house for all rows that leave it whole; built when it is needed, and anew after a row that failed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._house: House | None = None
        self._built = 0

    def run(self, row: rows.Row) -> tuple[int, list[str]]:
        house = self._open()
        try:
            row(house)
            house.wait_until_whole()
            return 1, house.broken_promises(load_artifacts=True)
        except BaseException:
            self.close()
            raise

    def kill(self, seed: int, kills: int) -> tuple[int, list[str]]:
        return random_kills(self._open(), random.Random(seed), kills)

    def close(self) -> tuple[int, list[str]]:
        if self._house is not None:
            self._house.close()
            self._house = None
        return 1, []

    def _open(self) -> House:
        if self._house is None:
            self._built += 1
            folder = self._folder / str(self._built)
            folder.mkdir(parents=True)
            self._house = House(folder, workers=2)
            self._house.wait_until_ready()
        return self._house


def _report(title: str, run: Callable[[], tuple[int, list[str]]]) -> bool:
    started = time.monotonic()
    try:
        runs, found = run()
    except Exception:
        runs, found = 1, [traceback.format_exc()]
    _say(f"{title:<28} {runs:>5} {len(found):>10} {time.monotonic() - started:>8.1f}")
    for sentence in found:
        _say(f"    {sentence}")
    return not found


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
