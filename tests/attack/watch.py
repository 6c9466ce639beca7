"""Looks at a service from outside while it is attacked: `python -m tests.attack.watch PORT PID`, until standard input ends.

A process of its own, as the attacker's threads would delay it. Every look opens a connection as a newcomer would. The verdict counts what
the newcomer waited; the time in which the service or the watcher was ready to run and had no processor is told apart, to tell a slow service
from a busy machine.
"""

import contextlib
import http.client
import json
import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

LOOK_SECONDS = 0.05
GIVEN_UP_SECONDS = 10.0


def waiting(pid: int) -> dict[int, float]:
    """How long each thread of a process was ready to run and had no processor, in seconds since it began."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found[int(task.name)] = int((task / "schedstat").read_text().split()[1]) / 1e9
    return found


def _waited(pid: int, before: dict[int, float]) -> float:
    """How long the process was kept from its work since `before`: its event loop, and the thread that the loop may have waited for."""
    since = {thread: seconds - before.get(thread, 0.0) for thread, seconds in waiting(pid).items()}
    return since.pop(pid, 0.0) + max(since.values(), default=0.0)


def livez_seconds(port: int, path: str = "/livez") -> float:
    """How long a newcomer waits for an answer; infinity where there is none."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=GIVEN_UP_SECONDS)
    try:
        connection.request("GET", path)
        if connection.getresponse().status != http.HTTPStatus.OK:
            return float("inf")
    except OSError:
        return float("inf")
    finally:
        connection.close()
    return time.perf_counter() - began


def anonymous_bytes(pid: int) -> int:
    """Memory that a process holds for itself, shared memory and memory files included."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return 1024 * sum(int(lines[name].split()[0]) for name in ("RssAnon", "RssShmem"))


@dataclass(frozen=True)
class Seen:
    """What a watcher saw during one attack."""

    latencies: list[float]
    """As a newcomer measured them."""
    own: list[float]
    """The same without the time in which the service, or the watcher itself, was ready to run and had no processor."""
    growth_bytes: int

    @property
    def worst(self) -> float:
        """The longest that `/livez` took."""
        return max(self.latencies)

    @property
    def p99(self) -> float:
        """The 99th percentile of what a newcomer measured."""
        return _p99(self.latencies)

    @property
    def own_p99(self) -> float:
        """The 99th percentile of what the service itself took."""
        return _p99(self.own)


def _p99(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


class Watcher:
    """Watches until `end`."""

    def __init__(self, port: int, pid: int) -> None:
        self._before = anonymous_bytes(pid)
        command = [sys.executable, "-m", "tests.attack.watch", str(port), str(pid)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"watching\n"

    def end(self) -> Seen:
        """Stop and tell."""
        told, _ = self._process.communicate(timeout=2 * GIVEN_UP_SECONDS)
        found = json.loads(told)
        return Seen(found["latencies"], found["own"], max(0, found["most_bytes"] - self._before))


def main() -> None:
    port, pid = int(sys.argv[1]), int(sys.argv[2])
    sys.stdout.write("watching\n")
    sys.stdout.flush()
    latencies, own, most_bytes = [], [], 0
    while True:
        before, own_before = waiting(pid), waiting(os.getpid())
        took = livez_seconds(port)
        latencies.append(took)
        own.append(max(0.0, took - _waited(pid, before) - _waited(os.getpid(), own_before)))
        most_bytes = max(most_bytes, anonymous_bytes(pid))
        if select.select([sys.stdin], [], [], LOOK_SECONDS)[0]:
            break
    sys.stdout.write(json.dumps({"latencies": latencies, "own": own, "most_bytes": most_bytes}))


if __name__ == "__main__":
    main()
