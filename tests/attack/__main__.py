"""Attacks on a running service: `python -m tests.attack [--seed N] [--only NAME …]`. One line a try, then `N passed, N failed`.

Everything stays on the loopback and in a temporary folder; each attack is bounded to a minute. What must hold: `/livez` is answered to
newcomers within 250 ms (p99, in one of three tries; "own" is the same without what other processes of a busy machine take, for
information), the API grows by at most 64 MiB, nothing is answered with 5xx but 503 with `Retry-After`, and five seconds after the attack
everybody else is served as before.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.attack import bodies, connections, documents, heads, load, pages, rights
from tests.attack.target import Target
from tests.attack.verdict import Verdict, tried

ATTACKS = (*documents.ATTACKS, *bodies.ATTACKS, *heads.ATTACKS, *connections.ATTACKS, *rights.ATTACKS, *pages.ATTACKS, *load.ATTACKS)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", nargs="*", default=[], help="attacks to run, as words of their names")
    arguments = parser.parse_args()
    _say(f"seed {arguments.seed}")
    _say(f"{'attack':<38} {'worst':>9} {'p99':>9} {'own p99':>9} {'growth':>11} {'took':>8}")
    chosen = [attack for attack in ATTACKS if not arguments.only or any(word in attack.__name__ for word in arguments.only)]
    if not chosen:
        parser.error("no such attack")
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory(prefix="attack-") as folder, Target(Path(folder)) as target:
        for attack in chosen:
            tries = tried(target, attack, arguments.seed)
            verdicts.append(tries[-1])
            _say("\n".join(map(str, tries)))
    failed = sum(bool(verdict.wrong) for verdict in verdicts)
    _say(f"{len(verdicts) - failed} passed, {failed} failed")
    return 1 if failed else 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
