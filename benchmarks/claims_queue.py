"""Claims from a long queue: does the time stay flat, and does each project get its share?

    python -m benchmarks.claims_queue [--jobs 100 10000] [--projects 3] [--claims 200] [--json FILE]

On SQLite, and on a PostgreSQL of its own. Jobs are copied in bulk; the first project queues nine tenths of them. Every claimed job is
ended at once in half of the cases, so that running counts move. Bar: the p99 at the longest queue is within 3 times of the shortest.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select

from core import ids, jobs
from core.database import migrate
from core.database.tables import Job, JobEvent
from core.service import Service
from core.settings import Settings
from tests import servers
from tests.core.conftest import make_world


def fill(service: Service, projects: int, total: int) -> list[str]:
    """Queue `total` jobs of several projects by copying one; returns the projects' ids."""
    worlds = [make_world(service, f"bench-{index}") for index in range(projects)]
    others = total // 10 // max(1, projects - 1)
    for index, world in enumerate(worlds):
        count = total - others * (projects - 1) if index == 0 else others
        pattern = world.submit()
        columns = {column.key: getattr(pattern, column.key) for column in Job.__table__.columns}
        rows = [{**columns, "id": ids.new("job")} for _ in range(count - 1)]
        with service.database.unit_of_work() as session:
            session.execute(insert(Job), rows)
            session.execute(insert(JobEvent), [{"job_id": row["id"], "seq": 1, "type": "created", "fence": 0, "data": {}} for row in rows])
    return [world.project_id for world in worlds]


def measure(url: str, projects: int, total: int, claims: int) -> dict[str, Any]:
    """Milliseconds of each claim (one transaction), and the projects that got them."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(database_url=url or f"sqlite:///{folder}/bench.db", data_dir=Path(folder), min_free_bytes=0)
        migrate.upgrade(settings)
        with Service.open(settings) as service:
            fill(service, projects, total)
            times, got = [], Counter[str]()
            for number in range(claims):
                begun = time.perf_counter()
                with service.database.unit_of_work() as session:
                    claim = jobs.claim(session, "cpu", worker="bench", device="cpu", lease_seconds=600)
                times.append((time.perf_counter() - begun) * 1000)
                assert claim is not None
                got[claim.project_id] += 1
                if number % 2:
                    with service.database.unit_of_work() as session:
                        jobs.finish(session, claim.job_id, claim.fence, outcome=None, result={})
            with service.database.reader() as session:
                running = Counter(session.scalars(select(Job.project_id).where(Job.status == "running")))
    cuts = statistics.quantiles(times[5:], n=100)
    return {
        "jobs": total,
        "p50_ms": round(cuts[49], 2),
        "p99_ms": round(cuts[98], 2),
        "claims_by_project": sorted(got.values()),
        "running_by_project": sorted(running.values()),
    }


def main() -> int:
    """Print one line for each database and length, and the ratio of the p99s."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", default=[100, 10_000])
    parser.add_argument("--projects", type=int, default=3)
    parser.add_argument("--claims", type=int, default=90)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report: dict[str, Any] = {}
    met = True
    with servers.postgres() as postgres:
        for name in ("sqlite", "postgresql"):
            rows = []
            for total in options.jobs:
                url = postgres.url(postgres.create()) if name == "postgresql" else ""
                rows.append(measure(url, options.projects, total, options.claims))
                print(name, rows[-1], flush=True)
            ratio = rows[-1]["p99_ms"] / rows[0]["p99_ms"]
            met = met and ratio <= 3
            report[name] = {"rows": rows, "p99_ratio": round(ratio, 2)}
            print(f"{name}: p99 at {options.jobs[-1]} jobs is {ratio:.2f} times that at {options.jobs[0]} (bar: 3)", flush=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=2))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
