"""Ids, times, JSON, failpoints, settings, logs."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy import select

from core import failpoints, ids
from core.database import clock
from core.database.serialization import clean, storable, to_json
from core.database.tables import Project
from core.jobs import timestamp
from core.service import Service
from core.settings import Settings


def test_ids_have_a_prefix_and_grow() -> None:
    made = [ids.new("job") for _ in range(1000)]
    assert made == sorted(set(made))
    assert all(re.fullmatch(r"job_[0-9a-z]{26}", item) for item in made)
    earlier = ids.new("mdl")
    time.sleep(0.003)
    assert earlier < ids.new("mdl")


def test_ids_grow_though_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ids.new("job")
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)
    assert ids.new("job") > before


def test_ids_of_threads_differ() -> None:
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.extend([ids.new("job") for _ in range(500)])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 2000


def test_the_databases_clock(service: Service) -> None:
    with service.database.reader() as session:
        here = clock.now(session)
        later, earlier = session.execute(select(clock.db_now(90), clock.db_now(-0.5))).one()
    assert here.tzinfo is not None
    assert abs((here - datetime.now(UTC)).total_seconds()) < 5
    assert 89.9 < (later - here).total_seconds() < 92
    assert -0.6 < (earlier - here).total_seconds() < 2


def test_times_are_aware_and_in_utc(service: Service) -> None:
    local = datetime(2026, 11, 24, 3, 0, 0, 123456, tzinfo=timezone(timedelta(hours=5)))
    with service.database.unit_of_work() as session:
        session.add(Project(id="prj_x", name="x", created_at=local))
    with service.database.reader() as session:
        stored = session.get_one(Project, "prj_x").created_at
        assert stored == local
        assert stored.utcoffset() == timedelta(0)
        assert session.scalar(select(Project.id).where(Project.created_at == local)) == "prj_x"
    with pytest.raises(Exception, match="naive"), service.database.unit_of_work() as session:
        session.add(Project(id="prj_y", name="y", created_at=datetime(2026, 1, 1)))
    assert timestamp(stored) == "2026-11-23T22:00:00.123Z"
    assert timestamp(None) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(JSON)
def test_every_tree_becomes_json_that_strict_readers_take(value: object) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = to_json(value)
    text.encode()
    assert json.loads(text, parse_constant=refuse) == json.loads(json.dumps(storable(value)))
    assert to_json(storable(value)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [float("nan"), float("inf"), 1.5]}, '{"a":[null,null,1.5]}'),
        ("nul \x00", '"nul \ufffd"'),
        ("the text \\u0000", '"the text \\\\u0000"'),
        ({"\ud800": 1}, '{"?":1}'),
        (("ü", None, True), '["ü",null,true]'),
    ],
)
def test_json(value: object, text: str) -> None:
    assert to_json(value) == text


def test_text_for_the_database() -> None:
    assert clean("a\x00b\ud800") == "a�b?"


@pytest.mark.parametrize("text", ["a", "a:explode", "a:sleep(x)", "A:kill", "a:kill@"])
def test_failpoints_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ValueError, match="name:kill"):
        failpoints.parse(text)


def _with_failpoint(value: str, code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, failpoints.VARIABLE: value}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=30, check=False)


def test_failpoints_act_in_a_process_that_asks_for_them() -> None:
    code = "from core.failpoints import hit\nfor n in range(3):\n    print(n, flush=True)\n    hit('x.y')\n    hit('other')"
    assert _with_failpoint("", code).stdout.split() == ["0", "1", "2"]
    killed = _with_failpoint("other:sleep(0.01), x.y:kill@2", code)
    assert (killed.stdout.split(), killed.returncode) == (["0", "1"], -signal.SIGKILL)
    failed = _with_failpoint("x.y:error@3", code)
    assert "InjectedError: failpoint x.y" in failed.stderr
    assert failed.stdout.split() == ["0", "1", "2"]


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODELPRESS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("MODELPRESS_LEASE_SECONDS", "7.5")
    settings = Settings()
    assert settings.lease_seconds == 7.5
    assert settings.resolved_database_url == f"sqlite:///{tmp_path}/modelpress.db"
    assert settings.resolved_blob_url == f"file://{tmp_path}/blobs"
    monkeypatch.setenv("MODELPRESS_LEASE_SECONDS", "0")
    with pytest.raises(ValidationError):
        Settings()
    with pytest.raises(ValidationError):
        setattr(settings, "data_dir", tmp_path / "other")  # noqa: B010 - a type checker refuses the assignment, too


def test_logs_are_json_with_what_they_belong_to() -> None:
    code = (
        "import logging\nfrom core.logging import bound, configure, logger\nfrom core.settings import Settings\n"
        "configure(Settings())\n"
        "with bound(job_id='job_1'):\n    logger('worker').info('claimed', fence=2)\n    logging.getLogger('kombu').warning('away %s', 'x')\n"
        "logger('worker').debug('not shown')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    first, second = (json.loads(line) for line in done.stderr.splitlines())
    assert (first["event"], first["job_id"], first["fence"], first["level"]) == ("claimed", "job_1", 2, "info")
    assert (second["event"], second["job_id"], second["logger"]) == ("away x", "job_1", "kombu")
    assert first["timestamp"].endswith("Z")


def test_core_loads_neither_torch_nor_a_web_framework() -> None:
    code = "import sys, core.service, core.operations.reconciler, core.library.models, core.library.datasets, core.access.keys\nprint(sorted({'torch', 'onnx', 'fastapi'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
