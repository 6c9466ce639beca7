"""What a job has in use, counted on real processes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.usage import folder_usage, group_usage

MIB = 1 << 20
UNBOUNDED = 1 << 60


@contextmanager
def group(code: str) -> Iterator[int]:
    """A process group that has run `code` and waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"import os, sys, mmap\n{code}\nprint('ready', flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def test_memory_in_a_file_without_a_name_counts_though_nobody_has_mapped_it() -> None:
    code = "f = os.memfd_create('x'); os.write(f, bytes(64 << 20)); g = os.dup(f)"
    with group(code) as pid:
        for bound in (UNBOUNDED, MIB):
            assert 64 * MIB <= group_usage(pid, bound).memory_bytes < 64 * MIB + 80 * MIB


def test_shared_pages_count_once_where_it_matters() -> None:
    code = "kept = b'x' * (64 << 20)\nfor _ in range(3):\n    if os.fork() == 0:\n        sys.stdin.read(); os._exit(0)"
    with group(code) as pid:
        assert group_usage(pid, UNBOUNDED).processes == 4
        assert group_usage(pid, UNBOUNDED).memory_bytes > 4 * 64 * MIB
        assert 64 * MIB < group_usage(pid, MIB).memory_bytes < 2 * 64 * MIB


def test_mapped_shared_memory_counts_once() -> None:
    code = "m = mmap.mmap(-1, 64 << 20); m.write(bytes(64 << 20))\nif os.fork() == 0:\n    m[0]; sys.stdin.read(); os._exit(0)"
    with group(code) as pid:
        assert 64 * MIB < group_usage(pid, MIB).memory_bytes < 2 * 64 * MIB


def test_files_count_with_their_folders_and_those_without_a_name(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(bytes(3 * MIB))
    (tmp_path / "hole").touch()
    os.truncate(tmp_path / "hole", 1 << 40)
    (tmp_path / "link").symlink_to("/")
    found = folder_usage(tmp_path, None)
    assert found.count == 5
    assert 3 * MIB <= found.size_bytes < 4 * MIB
    code = f"f = open({str(tmp_path / 'gone')!r}, 'wb', 0); f.write(bytes(2 << 20)); os.unlink({str(tmp_path / 'gone')!r})"
    with group(code) as pid:
        more = folder_usage(tmp_path, pid)
    assert more.count == 6
    assert 5 * MIB <= more.size_bytes < 6 * MIB
