"""Control groups: version 2 on a tree of plain files, what the machine has in earnest."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.settings import Settings
from engine.process.launcher import Launcher
from engine.process.request import NAMESPACES, Request
from engine.process.sandbox.isolation import LAYERS
from tests.engine.process.conftest import CHILDREN, run_to_end
from tests.engine.process.test_launcher import gone
from tests.engine.process.test_spare import spare_of
from worker import cgroups
from worker.cgroups import Groups, JobGroups
from worker.memory import bound_bytes, share_bytes

GIB = 1 << 30


def two(folder: Path, *, controllers: str = "cpu memory pids", pids: tuple[int, ...] = (), divided: str = "") -> Path:
    """A group of version 2 as its files show it."""
    folder.mkdir(parents=True)
    (folder / "cgroup.controllers").write_text(controllers)
    (folder / "cgroup.subtree_control").write_text(divided)
    (folder / "cgroup.procs").write_text("\n".join(map(str, pids)))
    return folder


def test_a_group_of_ones_own_is_divided_and_left(tmp_path: Path) -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        folder = two(tmp_path / "unit", pids=(os.getpid(), child.pid))
        assert cgroups.divided(folder) == folder
        assert (folder / "service" / "cgroup.procs").read_text() == str(child.pid)  # the last that was moved
        assert (folder / "cgroup.subtree_control").read_text() == "+pids"
    finally:
        child.kill()
        child.wait()


def test_a_group_that_others_are_in_is_left_alone(tmp_path: Path) -> None:
    folder = two(tmp_path / "unit", pids=(os.getpid(), 1))
    with pytest.raises(OSError, match="not the service's"):
        cgroups.divided(folder)
    assert not (folder / "service").exists()
    with pytest.raises(OSError, match="no memory controller"):
        cgroups.divided(two(tmp_path / "other", controllers="cpu"))


def test_what_serve_divided_is_found_by_its_workers(tmp_path: Path) -> None:
    folder = two(tmp_path / "unit", divided="memory pids")
    assert cgroups.divided(folder) == folder
    assert cgroups.divided(two(folder / "service")) == folder


def test_the_least_limit_around_the_process_is_the_machines_memory(tmp_path: Path) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/outer/inner\n")
    (tmp_path / "proc" / "self" / "mountinfo").write_text("31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    inner = tmp_path / "sys" / "fs" / "cgroup" / "outer" / "inner"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    assert cgroups.memory_limit_bytes(tmp_path) == cgroups.memory_limit_bytes(tmp_path / "nothing")
    (inner.parent / "memory.max").write_text("1048576\n")
    assert cgroups.memory_limit_bytes(tmp_path) == 1 << 20


def test_the_kernel_holds_a_group_to_its_memory() -> None:
    """Where this machine gives groups, a process that takes too much is ended and counted; elsewhere there is no base."""
    base = cgroups.base()
    if base is None:
        assert not any(os.access(folder, os.W_OK) and version == 1 for version, folder in cgroups._own_groups(Path("/")))
        return
    group = base.make()
    assert group is not None
    try:
        group.bound(memory_bytes=64 << 20, processes=100)
        code = "import sys; open(sys.argv[1], 'w').write('0'); kept = b'x' * (256 << 20)"
        done = subprocess.run([sys.executable, "-c", code, str(group.entrance)], check=False)
        assert done.returncode == -9
        assert group.out_of_memory_kills() == 1
    finally:
        group.close()
    assert not group.folder.exists()


@pytest.mark.parametrize("layers", [LAYERS, (NAMESPACES, *LAYERS)], ids=["tier 1", "tier 2"])
def test_the_process_of_the_next_job_waits_in_its_group(tmp_path: Path, layers: tuple[str, ...]) -> None:
    groups, launcher = Groups(), Launcher(warm=False)
    try:
        with groups.of_job(GIB, 100) as first:
            assert (first.own is None) == (cgroups.base() is None)
            _sign_in(launcher, tmp_path / "first", first, layers)
            ready = spare_of(launcher)
            if first.following is not None:
                assert str(ready) in first.following.entrance.read_text().split()
        with groups.of_job(GIB, 100) as second:
            assert second.own == first.following
            _sign_in(launcher, tmp_path / "second", second, layers)
            assert gone(ready), "it was the one that signed in"
        assert not any(group and group.folder.exists() for group in (first.own, second.own))
    finally:
        launcher.close()
        groups.close()
    assert second.following is None or not second.following.folder.exists()


def test_a_process_that_waits_in_another_group_is_not_taken(tmp_path: Path) -> None:
    groups, launcher = Groups(), Launcher(warm=False)
    try:
        with groups.of_job(GIB, 100) as first:
            for name in ("first", "again"):
                _sign_in(launcher, tmp_path / name, first, LAYERS)
                ready = spare_of(launcher)
            _sign_in(launcher, tmp_path / "elsewhere", JobGroups(None, None), LAYERS)
            assert gone(ready)
    finally:
        launcher.close()
        groups.close()


def _sign_in(launcher: Launcher, directory: Path, groups: JobGroups, layers: tuple[str, ...]) -> None:
    """Run a child in its group."""
    directory.mkdir(mode=0o700)
    own, following = (None if group is None else str(group.entrance) for group in (groups.own, groups.following))
    ended = run_to_end(launcher, Request(directory, entry=f"{CHILDREN}:sign_in", layers=layers, group=own, next_group=following))
    assert ended.exit.returncode == 0, ended.log
    assert (directory / "signatures").read_text() == "x"


def test_a_share_of_the_machine_is_for_each_worker_and_less_for_inspections() -> None:
    for machine, workers in ((24 * GIB, 1), (24 * GIB, 4), (2 * GIB, 1), (512 * GIB, 8)):
        share = share_bytes(machine, workers)
        assert workers * share + 3 * (share // 2) < machine * 0.9
    assert share_bytes(24 * GIB, 1) > 7 * GIB
    settings = Settings(job_memory_bytes=2 * GIB)
    assert bound_bytes(settings, asked=None) == bound_bytes(settings, asked=5 * GIB) == 2 * GIB
    assert bound_bytes(settings, asked=GIB) == GIB
    assert bound_bytes(settings, asked=None, inspection=True) == GIB
