"""One attack, watched: what a newcomer noticed of it, and whether that is within the bounds."""

import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.attack.target import Answers, Target
from tests.attack.watch import Watcher, livez_seconds

LIVEZ_SECONDS = 0.25
GROWTH_BYTES = 64 * 2**20
RECOVERY_SECONDS = 5.0
DESCRIPTORS = 20
"""So many more may be open afterwards than before: of the database and the like, and none of clients that are gone."""
TRIES = 3
"""A machine may stall for longer than the service may take; a service that is too slow is so each time."""
Attack = Callable[[Target, Random], None]


@dataclass(frozen=True)
class Verdict:
    """What became of one attack."""

    name: str
    worst_seconds: float
    p99_seconds: float
    own_p99_seconds: float
    """Without the time in which the service had no processor; for information."""
    growth_bytes: int
    seconds: float
    wrong: list[str]
    """What is out of bounds; empty where all holds."""

    def __str__(self) -> str:
        """One line."""
        said = "ok" if not self.wrong else f"FAILED: {'; '.join(self.wrong)}"
        latencies = " ".join(f"{1000 * seconds:>6.0f} ms" for seconds in (self.worst_seconds, self.p99_seconds, self.own_p99_seconds))
        return f"{self.name:<38} {latencies} {self.growth_bytes / 2**20:>7.1f} MiB {self.seconds:>6.1f} s  {said}"


def attacked(target: Target, attack: Attack, seed: int) -> Verdict:
    """Run one attack and judge it."""
    gc.collect()
    target.answers = Answers()
    wrong = []
    watcher = Watcher(target.port, target.process.pid)
    open_before = _descriptors(target)
    began = time.monotonic()
    try:
        attack(target, Random(f"{seed} {attack.__name__}"))
    except AssertionError as error:
        wrong.append(str(error).partition("\n")[0][:200] or "it did what it should not")
    took = time.monotonic() - began
    recovered = _recovery_seconds(target)
    kept = _kept_descriptors(target, open_before)
    seen = watcher.end()
    if seen.p99 > LIVEZ_SECONDS:
        wrong.append(f"/livez took {1000 * seen.p99:.0f} ms (p99)")
    if seen.growth_bytes > GROWTH_BYTES:
        wrong.append(f"the API grew by {seen.growth_bytes / 2**20:.0f} MiB")
    if recovered > RECOVERY_SECONDS:
        wrong.append(f"an innocent waited {recovered:.1f} s afterwards")
    if kept > DESCRIPTORS:
        wrong.append(f"{kept} descriptors of clients that are gone stayed open")
    if target.process.poll() is not None:
        wrong.append("the API ended")
    wrong += target.answers.wrong[:3]
    return Verdict(attack.__name__.replace("_", " "), seen.worst, seen.p99, seen.own_p99, seen.growth_bytes, took, wrong)


def tried(target: Target, attack: Attack, seed: int) -> list[Verdict]:
    """Run one attack, and again where something was out of bounds, up to `TRIES` times; the last verdict counts."""
    verdicts: list[Verdict] = []
    while len(verdicts) < TRIES and (not verdicts or verdicts[-1].wrong):
        verdicts.append(attacked(target, attack, seed + len(verdicts)))
    return verdicts


def _recovery_seconds(target: Target) -> float:
    """How long it takes until a newcomer and an innocent key are answered as ever."""
    began = time.monotonic()
    while time.monotonic() - began < 2 * RECOVERY_SECONDS:
        if livez_seconds(target.port) < LIVEZ_SECONDS and target.call("GET", "/v1/jobs", key=target.innocent)[0] == 200:
            return time.monotonic() - began
        time.sleep(0.05)
    return float("inf")


def _descriptors(target: Target) -> int:
    return len(os.listdir(f"/proc/{target.process.pid}/fd")) if target.process.poll() is None else 0


def _kept_descriptors(target: Target, before: int) -> int:
    """How many more are open than before the attack, once that is few, or `RECOVERY_SECONDS` later."""
    deadline = time.monotonic() + RECOVERY_SECONDS
    while (kept := _descriptors(target) - before) > DESCRIPTORS and time.monotonic() < deadline:
        time.sleep(0.05)
    return kept
