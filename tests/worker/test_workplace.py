"""Nothing of a job stays on disk, whoever dies."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from worker.workplace import Workplace


def test_a_directory_is_private_and_gone_afterwards(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "work")
    with workplace.directory("job") as directory:
        assert directory.stat().st_mode & 0o777 == 0o700
        (directory / "locked").mkdir()
        (directory / "locked" / "file").write_text("x")
        (directory / "locked").chmod(0o500)
    assert not directory.exists()
    workplace.close()
    assert list((tmp_path / "work").iterdir()) == []


def test_a_folder_that_was_swept_is_made_anew(tmp_path: Path) -> None:
    work = tmp_path / "work"
    workplace = Workplace(work)
    swept = workplace.path
    shutil.rmtree(work)
    assert workplace.trouble() is None
    with workplace.directory("job") as directory:
        assert directory.is_dir()
        assert not directory.is_relative_to(swept)
    for lock in work.glob("*.lock"):
        lock.unlink()
    with workplace.directory("job"):
        assert len(list(work.glob("*.lock"))) == 1
        Workplace(work).close()  # whoever starts now finds that this one lives
        assert workplace.path.is_dir()
    workplace.close()


def test_what_keeps_jobs_from_living_here_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    workplace = Workplace(work)
    with monkeypatch.context() as patch:
        patch.setattr("worker.workplace.free_bytes", lambda _: 1 << 20)
        assert workplace.trouble() == "the disk of the work folder is full"
    shutil.rmtree(work)
    work.write_text("a file")
    assert workplace.trouble() == "there is no work folder: File exists"
    work.unlink()
    assert workplace.trouble() is None
    workplace.close()


def test_folders_of_dead_processes_are_removed_and_those_of_living_ones_are_not(tmp_path: Path) -> None:
    code = "import sys, pathlib, worker.workplace as w; print(w.Workplace(pathlib.Path(sys.argv[1])).path, flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert process.stdout
    assert process.stdin
    folder = Path(process.stdout.readline().strip())
    Workplace(tmp_path).close()
    assert folder.exists()
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    Workplace(tmp_path).close()
    assert not folder.exists()
