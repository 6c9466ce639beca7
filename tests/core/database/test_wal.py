"""A log that lost what was committed to it is found out; SQLite itself would go on as if it had never been."""

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from core.database.wal import lost_frames
from core.operations.startup import CannotStart, check_database
from core.settings import Settings

WRITER = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode=WAL")
connection.execute("PRAGMA synchronous=FULL")
connection.execute("CREATE TABLE IF NOT EXISTS jobs (id INTEGER PRIMARY KEY, spec TEXT)")
for number in range(int(sys.argv[2])):
    connection.execute("INSERT INTO jobs (spec) VALUES (?)", ["s" * 3000])
if "closed" in sys.argv:
    connection.close()
os._exit(9)
"""


def written(folder: Path, rows: int = 20, *more: str) -> Path:
    """A database that a process wrote and left."""
    folder.mkdir(exist_ok=True)
    path = folder / "modelpress.db"
    subprocess.run([sys.executable, "-c", WRITER, str(path), str(rows), *more], check=False)
    return path


def rows_of(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        return int(connection.execute("SELECT count(*) FROM jobs").fetchone()[0])


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("wal"))


@pytest.fixture
def copied(killed: Path, tmp_path: Path) -> Path:
    for path in killed.parent.iterdir():
        shutil.copy(path, tmp_path / path.name)
    return tmp_path / killed.name


def log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def test_a_process_that_was_killed_has_lost_nothing(copied: Path) -> None:
    assert log_of(copied).stat().st_size > 0
    assert lost_frames(copied) == 0
    assert rows_of(copied) == 20


def test_a_database_that_was_closed_has_lost_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "a", 20, "closed")
    assert not log_of(path).exists()
    assert lost_frames(path) == 0


def test_a_log_that_was_begun_anew_has_lost_nothing(tmp_path: Path) -> None:
    """More than a thousand pages: SQLite has copied the first ones into the database and goes on at the log's start."""
    path = written(tmp_path / "a", 1500)
    assert lost_frames(path) == 0
    assert rows_of(path) == 1500


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_a_log_that_was_cut_short_is_found_out(copied: Path, kept: float) -> None:
    log = log_of(copied)
    with log.open("r+b") as file:
        file.truncate(int(log.stat().st_size * kept))
    assert lost_frames(copied) > 0
    assert rows_of(copied) < 20 if kept else True


def test_a_log_that_is_gone_is_found_out(copied: Path) -> None:
    log_of(copied).unlink()
    assert lost_frames(copied) > 0


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_flipped_bit_in_the_log_is_found_out(copied: Path, part: float) -> None:
    log = log_of(copied)
    content = bytearray(log.read_bytes())
    content[int(len(content) * part)] ^= 4
    log.write_bytes(content)
    assert lost_frames(copied) > 0
    assert rows_of(copied) < 20


def test_without_its_index_nothing_is_said(copied: Path) -> None:
    copied.with_name(f"{copied.name}-shm").unlink()
    with log_of(copied).open("r+b") as file:
        file.truncate(10_000)
    assert lost_frames(copied) == 0


def test_the_service_does_not_start_on_a_log_that_lost_jobs_unless_it_is_told_to(copied: Path) -> None:
    settings = Settings(data_dir=copied.parent)
    check_database(settings)
    for path in copied.parent.iterdir():
        path.unlink()
    written(copied.parent)
    with log_of(copied).open("r+b") as file:
        file.truncate(10_000)
    with pytest.raises(CannotStart, match=r"gone from modelpress\.db-wal"):
        check_database(settings)
    copied.with_name(f"{copied.name}-shm").unlink()
    check_database(settings)


def test_damaged_pages_are_found_after_an_unclean_end_only(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    path = written(tmp_path, 200, "closed")
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 3 + 200] = b"\xff" * 200
    path.write_bytes(content)
    check_database(settings)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    log_of(path).touch()
    with pytest.raises((CannotStart, sqlite3.DatabaseError), match=r"damaged|malformed"):
        check_database(settings)
