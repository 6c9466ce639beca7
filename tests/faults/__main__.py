"""The fault matrix: `python -m tests.faults [--seed N] [--kills 200] [--only NAME …]`. One line a row, then `N passed, N failed`.

Rows run in groups, two at once: they wait for leases and processes most of the time.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from tests.faults.groups import GROUPS, Plan, run_group, say, wanted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--kills", type=int, default=200, help="processes to kill at random moments")
    parser.add_argument("--only", nargs="*", default=[], help="rows to run")
    parser.add_argument("--at-once", type=int, default=2, help="groups of rows that run beside each other, each with services of its own")
    arguments = parser.parse_args()
    say(f"seed {arguments.seed}")
    say(f"{'fault':<38} {'runs':>5} {'violations':>10} {'seconds':>8}")
    with tempfile.TemporaryDirectory(prefix="faults-") as name, ProcessPoolExecutor(arguments.at_once, get_context("spawn")) as pool:
        plan = Plan(Path(name), arguments.seed, arguments.kills, tuple(arguments.only))
        if unknown := set(plan.only) - {title for group in GROUPS.values() for title, _ in group(plan)}:
            parser.error(f"no such row: {', '.join(sorted(unknown))}")
        groups = [pool.submit(run_group, plan, group) for group in GROUPS if wanted(plan, group)]
        counted = Counter(outcome for group in groups for outcome in group.result())
    say(f"{counted['passed']} passed, {counted['failed']} failed")
    return 1 if counted["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
