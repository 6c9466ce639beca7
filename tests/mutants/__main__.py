"""Change the code in one small way at a time, and see whether the tests notice.

    python -m tests.mutants [--rooms measuring metrics …] [--count 25] [--seed 1] [--all]

Everything happens in a copy of the tree below `build/mutants`. A change that no test notices has to stand in `survivors.toml` with the
reason why none can (it computes the same, or only what a person reads is worded otherwise). Ends with 1 where fewer than nine of ten
are noticed, or where one survives that is not listed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from pathlib import Path
from random import Random

from tests.mutants.rooms import ROOMS, Room
from tests.mutants.sites import Mutant, sampled

NOTICED = 0.9
TREE = Path("build/mutants/tree")
SURVIVORS = Path(__file__).with_name("survivors.toml")


def main() -> int:
    """Try the mutants of each room; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", nargs="+", choices=[room.name for room in ROOMS], default=[room.name for room in ROOMS])
    parser.add_argument("--count", type=int, default=25, help="places of each room, drawn with the seed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--all", action="store_true", help="every place of every room (hours)")
    options = parser.parse_args()
    listed = tomllib.loads(SURVIVORS.read_text()).get("survivors", {}) if SURVIVORS.exists() else {}
    _copy_tree()
    tally, unlisted = Counter[str](), []
    for room in (room for room in ROOMS if room.name in options.rooms):
        mutants = sampled(room.files(), None if options.all else options.count, Random(f"{options.seed} {room.name}"))
        allowed = 3 * _seconds(room) + 10
        for mutant in mutants:
            outcome = _tried(mutant, room, allowed)
            if outcome == "survived" and mutant.name in listed:
                outcome = "listed"
            elif outcome == "survived":
                unlisted.append(mutant)
            tally[outcome] += 1
            print(f"{outcome:9} {mutant.file}:{mutant.line} {mutant.operator} | {mutant.text}", flush=True)
    noticed, tried = tally["noticed"], tally["noticed"] + tally["survived"]
    print(f"{noticed} of {tried} noticed, {tally['listed']} more cannot be (listed with their reasons)")
    for mutant in unlisted:
        print(f'"{mutant.name}" = ""')
    return 0 if tried and noticed >= NOTICED * tried and not unlisted else 1


def _copy_tree() -> None:
    """All files that git knows, as they are now."""
    shutil.rmtree(TREE, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files", "-z"], check=True, capture_output=True).stdout.decode()
    for name in filter(Path.is_file, map(Path, listed.split("\0"))):
        (TREE / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, TREE / name)


def _seconds(room: Room) -> float:
    """How long the room's tests take on unchanged code, which they have to accept."""
    began = time.monotonic()
    if not _passes(room, 600):
        raise SystemExit(f"the tests of {room.name} fail on unchanged code")
    return time.monotonic() - began


def _tried(mutant: Mutant, room: Room, allowed: float) -> str:
    target = TREE / mutant.file
    original = target.read_text()
    try:
        target.write_text(mutant.code())
        return "survived" if _passes(room, allowed) else "noticed"
    finally:
        target.write_text(original)


def _passes(room: Room, allowed: float) -> bool:
    """Whether the room's tests pass in time; what loops for ever is noticed as well. A machine that is busy with other things gives more of it."""
    allowed *= max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", *room.tests]
    environment = {**os.environ, "PYTHONPATH": str(TREE.absolute()), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        command, cwd=TREE, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        return process.wait(allowed) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it left running
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
