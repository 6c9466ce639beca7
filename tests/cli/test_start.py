"""What keeps the service from starting is said in one sentence, with exit status 1, and nothing of another process is claimed."""

import fcntl
import os
import socket
import sqlite3
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from cli import serve
from core.database import migrate
from core.operations.startup import CannotStart, listen
from core.settings import Settings
from tests.servers import free_port


class _Other(BaseHTTPRequestHandler):
    """Another program, which calls itself ready."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _started(folder: Path, port: int, **environment: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "cli.main", "serve", "--port", str(port), "--data-dir", str(folder)]
    return subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_each_reason_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no folder")
    foreign, damaged = tmp_path / "foreign.db", tmp_path / "damaged.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE invoices (id INTEGER)")
    damaged.write_bytes(b"this is no database at all " * 400)
    elsewhere = tmp_path / "elsewhere.db"
    with sqlite3.connect(elsewhere) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('1a2b3c')")
    other = HTTPServer(("127.0.0.1", 0), _Other)
    Thread(target=other.serve_forever, daemon=True).start()
    away = f"postgresql+psycopg://modelpress@127.0.0.1:{free_port()}/none"
    cases = {
        "another program listens there": _started(tmp_path / "a", other.server_port),
        "File exists": _started(file, free_port()),
        "does not answer": _started(tmp_path / "b", free_port(), MODELPRESS_DATABASE_URL=away),
        "MODELPRESS_DATABASE_URL names no database": _started(tmp_path / "c", free_port(), MODELPRESS_DATABASE_URL="no url"),
        "names no database that is known": _started(tmp_path / "d", free_port(), MODELPRESS_DATABASE_URL="oracle9://x/y"),
        "not Modelpress's (invoices)": _started(tmp_path / "e", free_port(), MODELPRESS_DATABASE_URL=f"sqlite:///{foreign}"),
        "file is not a database": _started(tmp_path / "f", free_port(), MODELPRESS_DATABASE_URL=f"sqlite:///{damaged}"),
        "not one of this version": _started(tmp_path / "g", free_port(), MODELPRESS_DATABASE_URL=f"sqlite:///{elsewhere}"),
        "shorter than MODELPRESS_HEARTBEAT_SECONDS": _started(tmp_path / "h", free_port(), MODELPRESS_LEASE_SECONDS="0.5"),
        "MODELPRESS_BROKER_URL begins with 'carrier-pigeon'": _started(
            tmp_path / "i", free_port(), MODELPRESS_BROKER_URL="carrier-pigeon://x"
        ),
        "MODELPRESS_MAX_UPLOAD_BYTES cannot be used": _started(tmp_path / "j", free_port(), MODELPRESS_MAX_UPLOAD_BYTES="many"),
    }
    try:
        for reason, process in cases.items():
            told, said = process.communicate(timeout=120)
            assert process.returncode == 1, (reason, said)
            assert reason in said
            assert "Traceback" not in said
            assert len([line for line in said.splitlines() if line and not line.startswith("{")]) == 1, said  # beside the log's JSON
            assert "Modelpress is at" not in told
    finally:
        other.shutdown()
        other.server_close()
    with sqlite3.connect(foreign) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("invoices",)]


def test_a_lock_that_was_removed_lets_nobody_in(tmp_path: Path) -> None:
    with serve._only_one(tmp_path):
        (tmp_path / "serve.lock").unlink()
        with pytest.raises(serve.Refused, match="Another"), serve._only_one(tmp_path):
            raise AssertionError("a second one was let in")
    with serve._only_one(tmp_path):
        pass


def test_what_a_killed_service_left_behind_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    left, alive, foreign = tmp_path / "modelpress-left", tmp_path / "modelpress-alive", tmp_path / "modelpress-pg-1"
    for folder in (left, alive, foreign):
        folder.mkdir()
        (folder / "broker").touch()
    for folder in (left, alive):
        (folder / "run.lock").touch()
    with (alive / "run.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with serve._run_dir() as own:
            assert own.parent == tmp_path
            assert set(tmp_path.iterdir()) == {alive, foreign, own}
        assert set(tmp_path.iterdir()) == {alive, foreign}


def test_the_address_is_taken_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotStart, match="another program listens there"):
            listen("127.0.0.1", port)
    with listen("127.0.0.1", port) as listener:
        assert listener.getsockname() == ("127.0.0.1", port)


def test_the_api_alone_says_it_as_well(tmp_path: Path) -> None:
    environment = {**os.environ, "MODELPRESS_DATA_DIR": str(tmp_path)}
    migrate.upgrade(Settings(data_dir=tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-m", "api.server", "--port", str(taken.getsockname()[1])]
        refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert refused.returncode == 1
    assert "another program listens there" in refused.stderr
    assert "Traceback" not in refused.stderr
