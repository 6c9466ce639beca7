"""Places where a test can make a process die, fail or sleep; without the environment variable they cost one comparison.

`MODELPRESS_FAILPOINT` is a comma-separated list of `name:action[@hit]`: `kill` (SIGKILL to this process), `error` (an
`InjectedError`), `sleep(seconds)`. With `@3` it acts on the third hit only, else on every one.
"""

import os
import re
import signal
import threading
import time
from dataclasses import dataclass

VARIABLE = "MODELPRESS_FAILPOINT"
_SYNTAX = re.compile(r"(?P<name>[a-z_.]+):(?P<action>kill|error|sleep)(?:\((?P<seconds>[0-9.]+)\))?(?:@(?P<hit>[0-9]+))?")


class InjectedError(RuntimeError):
    """Raised by a failpoint."""


@dataclass
class _Failpoint:
    action: str
    seconds: float
    only_hit: int | None
    hits: int = 0


def parse(text: str) -> dict[str, _Failpoint]:
    """The failpoints that a variable's value asks for. Raises ValueError where it cannot be read."""
    points = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        match = _SYNTAX.fullmatch(item)
        if match is None:
            raise ValueError(f"{VARIABLE}: cannot read {item!r}; write name:kill, name:error or name:sleep(1.5), with @n for the n-th hit")
        points[match["name"]] = _Failpoint(match["action"], float(match["seconds"] or 0), int(match["hit"]) if match["hit"] else None)
    return points


_points = parse(os.environ.get(VARIABLE, ""))
_lock = threading.Lock()


def hit(name: str) -> None:
    """Act as the environment asks for at the place called `name`."""
    if not _points:
        return
    point = _points.get(name)
    if point is None:
        return
    with _lock:
        point.hits += 1
        acts = point.only_hit in (None, point.hits)
    if not acts:
        return
    if point.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif point.action == "sleep":
        time.sleep(point.seconds)
    else:
        raise InjectedError(f"failpoint {name}")
