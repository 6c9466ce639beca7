"""Kills and stops at random moments, and kills at every failpoint, from a seed, with jobs under way all the time."""

import os
import random
import signal
import threading
import time
from pathlib import Path

from tests.faults.house import House
from tests.plain import ApiError

ROLES = {"worker": 4, "child": 4, "spare": 2, "measuring": 3, "parent": 3, "api": 4, "broker": 2, "serve": 1}
"""What is hurt, and how often beside the others."""
LONGEST_STOP_SECONDS = 8.0
"""Longer than a lease: workers wake up and find that their jobs went to another one."""
IN_FLIGHT = 4
SETTLE_EVERY = 20

FAILPOINTS = (
    "create.before_commit",
    "create.after_commit",
    "blob.registered",
    "blob.published",
    "claim.before_commit",
    "worker.claimed",
    "worker.staged",
    "worker.child_started",
    "worker.checkpointed",
    "worker.child_ended",
    "worker.published",
    "finish.before_update",
    "finish.before_commit",
    "worker.end_written",
    "reconcile.after_lost",
)
"""Every edge of a job's life."""
HITS = {"blob.registered": 6, "blob.published": 6, "reconcile.after_lost": 12}
"""How often a process may come by before it dies there, where twice would stop every job: several files a job, two passes a second."""


def random_kills(house: House, rng: random.Random, kills: int) -> tuple[int, list[str]]:
    """Kill or stop `kills` processes; returns how many there were and what promises were broken."""
    under_way: list[str] = []
    found: list[str] = []
    done = 0
    stopped: dict[int, threading.Timer] = {}
    while done < kills:
        while len(under_way) < IN_FLIGHT:
            under_way.append(house.submit(rng.randrange(1, 600), key=f"k{rng.getrandbits(64)}", patient=True, max_attempts=10))
        time.sleep(rng.uniform(0.05, 1.5))
        stopped = {pid: timer for pid, timer in stopped.items() if timer.is_alive()}
        role = rng.choices(list(ROLES), weights=list(ROLES.values()))[0]
        if _stop(house, role, rng, stopped) if rng.random() < 1 / 3 else _kill(house, role, rng):
            done += 1
            if done % SETTLE_EVERY == 0 or done == kills:
                for timer in stopped.values():
                    timer.join()
                found += settle(house, under_way)
                under_way.clear()
        under_way = [job_id for job_id in under_way if not house.has_ended(job_id)]
    return done, found


def settle(house: House, under_way: list[str]) -> list[str]:
    """Let every job come to its end and check the promises. A job whose attempts ran out is no broken promise; any other failure is."""
    found = []
    for job_id in under_way:
        job = house.end(job_id, seconds=120)
        if job["status"] != "succeeded" and not (job["attempt"] == 10 and job["error"]["code"] in ("worker_lost", "child_killed")):
            found.append(f"{job_id} is {job['status']} after {job['attempt']} attempts: {job['error']}")
    house.wait_until_whole()
    return found + house.broken_promises(load_artifacts=True, grace_seconds=10)


def _stop(house: House, role: str, rng: random.Random, stopped: dict[int, threading.Timer]) -> bool:
    """Stop one process of a role; it goes on after a while, beside whatever else happens: a client may wait for it meanwhile."""
    victims = [house.process.pid] if role == "serve" else [pid for pid in house.pids(role) if pid not in stopped]
    if not victims:
        return False
    pid = rng.choice(victims)
    if not _signal(pid, signal.SIGSTOP):
        return False
    stopped[pid] = threading.Timer(rng.uniform(0.1, LONGEST_STOP_SECONDS), _signal, [pid, signal.SIGCONT])
    stopped[pid].start()
    return True


def _signal(pid: int, number: signal.Signals) -> bool:
    """Whether there was such a process."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _kill(house: House, role: str, rng: random.Random) -> bool:
    if role == "serve":
        house.process.kill()
        house.process.wait()
        house.restart()
        return True
    victims = house.pids(role)
    if not victims:
        return False
    return _signal(rng.choice(victims), signal.SIGKILL)


def deadly_failpoint(folder: Path, name: str) -> tuple[int, list[str], None]:
    """Three jobs through a service in which `name` kills each process that comes by too often; returns the kills and broken promises."""
    folder.mkdir()
    house = House(folder, MODELPRESS_FAILPOINT=f"{name}:kill@{HITS.get(name, 2) + 1}")
    try:
        house.wait_until_ready()
        ids = [house.submit(50, key=f"{name}-{number}", patient=True, max_attempts=10) for number in range(3)]
        found = settle(house, ids)
        kills = house.log.read_bytes().count(b"program ended")
        if kills == 0:
            found.append(f"nothing was killed at {name}")
        return kills, found, None
    except ApiError as error:
        return 0, [f"{name}: {error}"], None
    finally:
        house.close()
