"""A claim reads a handful of index entries, however long the queue is: asserted on the database's own plan, not on a clock."""

import re
from typing import Any

from sqlalchemy import insert, select

from core import ids
from core.database.tables import Job
from core.jobs.claim import SPEC_VERSION, next_job
from tests.core.conftest import World, make_world

MAY_TAKE = {"p_queue": "cpu", "p_spec_version": SPEC_VERSION, "p_memory_bytes": 0, "p_devices": 1}


def _fill(world: World, count: int) -> None:
    pattern = world.submit()
    columns = {column.key: getattr(pattern, column.key) for column in Job.__table__.columns}
    with world.service.database.unit_of_work() as session:
        session.execute(insert(Job), [{**columns, "id": ids.new("job")} for _ in range(count - 1)])


def _explain(world: World, prefix: str) -> list[Any]:
    compiled = select(next_job()).params(**MAY_TAKE).compile(dialect=world.service.database.engine.dialect)
    parameters: Any = compiled.params
    if compiled.positiontup is not None:
        parameters = tuple(compiled.params[name] for name in compiled.positiontup)
    with world.service.database.engine.begin() as connection:
        return list(connection.exec_driver_sql(f"{prefix} {compiled.string}", parameters))


def _buffers(world: World) -> int:
    # The server's own housekeeping comes when it likes, and earlier tests leave pages half empty, which a plain VACUUM may pass over;
    # with the table and its indexes written anew, the pages counted depend on the rows alone.
    with world.service.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM (FULL, ANALYZE) jobs")
    ((plan,),) = _explain(world, "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)")
    top = plan[0]["Plan"]
    return int(top["Shared Hit Blocks"] + top["Shared Read Blocks"])


def test_the_work_of_a_claim_does_not_grow_with_the_queue(world: World) -> None:
    """PostgreSQL counts the pages that were read; SQLite names the index of each look-up."""
    others = [make_world(world.service, name) for name in ("a", "b")]
    for each in (world, *others):
        _fill(each, 10)
    if world.service.database.engine.dialect.name == "sqlite":
        details = [row.detail for row in _explain(world, "EXPLAIN QUERY PLAN")]
        assert [detail for detail in details if re.match(r"SCAN (first|later|own|running|head|job)\b", detail)] == []
        used = {detail.split(" INDEX ")[1].split()[0] for detail in details if " INDEX " in detail}
        assert {"ix_jobs_waiting", "ix_jobs_running"} <= used
        return
    short = _buffers(world)
    for each in (world, *others):
        _fill(each, 3000)
    assert _buffers(world) <= short + 30
