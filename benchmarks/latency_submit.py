"""From POST /v1/jobs to the first word of the job's own process, on a warm service: `python -m benchmarks.latency_submit [--jobs N]`.

Starts the embedded service, uploads a small network, and submits jobs one after another. Times are the service's own records, read by
the same clock: the request's start here, `started` (claimed) and the first `phase` (the child speaks) in the job's events.
"""

import argparse
import json
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path

from tests.faults.house import House

BAR_MS = 300


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    claimed, spoke, cancelled = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        house = House(Path(folder))
        try:
            house.wait_until_ready()
            house.end(house.submit(1))
            for _ in range(arguments.jobs):
                started = time.time()
                job_id = house.submit(100_000)
                house.in_training(job_id)
                times = _times(house, job_id)
                claimed.append(1000 * (times["started"] - started))
                spoke.append(1000 * (times["phase"] - started))
                asked = time.monotonic()
                house.client.json("POST", f"/v1/jobs/{job_id}/cancel", {})
                house.end(job_id)
                cancelled.append(1000 * (time.monotonic() - asked))
        finally:
            house.close()
    figures = {
        "submit_to_claimed_ms": _spread(claimed),
        "submit_to_first_event_ms": _spread(spoke),
        "cancel_to_cancelled_ms": _spread(cancelled),
        "jobs": arguments.jobs,
    }
    for name, values in figures.items():
        print(name, values)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))
    return 0 if statistics.median(spoke) <= BAR_MS else 1


def _times(house: House, job_id: str) -> dict[str, float]:
    """When each type of event first occurred, in seconds since the epoch."""
    found: dict[str, float] = {}
    for event in house.client.json("GET", f"/v1/jobs/{job_id}/events?limit=100")["data"]:
        found.setdefault(event["type"], datetime.fromisoformat(event["created_at"]).timestamp())
    return found


def _spread(values: list[float]) -> dict[str, float]:
    return {"p50": round(statistics.median(values), 1), "p95": round(sorted(values)[int(0.95 * (len(values) - 1))], 1)}


if __name__ == "__main__":
    raise SystemExit(main())
