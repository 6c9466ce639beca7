"""The child's side of the probe: it attempts what a job must not, and reports what happened.

Every attempt takes the targets that the supervisor has made for it, returns where it succeeded, and raises OSError where it was held.
"""

import json
import os
import resource
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from engine.contract.events import Done
from engine.contract.files import FileRef
from engine.process import linux

Answer = Literal["denied", "open"]
BEYOND_TIER_1 = frozenset({"stat_outside", "see_other_process", "run_own_program_by_loader"})
"""What Landlock and seccomp cannot hold and namespaces do: to ask of a file by its path whether it is there, and to have the system's
loader run code from the job's own folder (which the interpreter could run as well)."""
_PTRACE_ATTACH = 16
_IN_MODIFY = 2
_CALLS = {
    "x86_64": {"ptrace": 101, "unshare": 272, "shmat": 30, "inotify_init1": 294, "inotify_add_watch": 254, "memfd_create": 319},
    "aarch64": {"ptrace": 117, "unshare": 97, "shmat": 196, "inotify_init1": 26, "inotify_add_watch": 27, "memfd_create": 279},
}


class Targets(BaseModel):
    """What there is to reach."""

    outside: Path
    """A folder with the folder `other` of another job, in which there is a file `weights`."""
    port: int
    """On the machine's loopback device."""
    unix: str
    abstract: str
    victim: int
    """A process of the same user."""
    shared_memory: int
    """The number of a System V segment of the same user; -1 where none could be made."""
    own_network: bool
    """Whether the child should be able to connect to itself."""


def attempt_all(directory: Path, emit: Callable[[BaseModel], None]) -> int:
    """Attempt everything that `targets.json` names."""
    targets = Targets.model_validate_json((directory / "targets.json").read_text())
    if targets.own_network and answer_of(_speak_to_self) == "denied":
        return 1
    with (directory / "answers.json").open("wb") as file:  # opened before an attempt changes the root
        content = json.dumps({name: answer_of(attempt) for name, attempt in _attempts(targets, directory).items()}).encode()
        file.write(content)
    emit(Done(result=FileRef.of("answers.json", content)))
    return 0


def answer_of(attempt: Callable[[], object]) -> Answer:
    """Whether an attempt succeeds."""
    try:
        attempt()
    except (OSError, KeyError, subprocess.SubprocessError):
        return "denied"
    return "open"


def _attempts(targets: Targets, directory: Path) -> dict[str, Callable[[], object]]:
    other, victim = targets.outside / "other", targets.victim
    calls = _CALLS.get(linux.MACHINE, {})
    return {
        "read_other_job": (other / "weights").read_bytes,
        "list_other_job": lambda: os.listdir(other),
        "watch_other_job": lambda: _watch(other, calls),
        "stat_outside": (other / "weights").stat,
        "read_accounts": lambda: Path("/etc/passwd").read_bytes(),
        "write_outside": lambda: (targets.outside / "written").write_text("x"),
        "chmod_outside": lambda: _chmod(other),
        "touch_outside": lambda: _touch(other / "weights"),
        "truncate_outside": lambda: os.truncate(other / "weights", 0),
        "run_own_program": lambda: _run([str(_own_program(directory))]),
        "run_own_program_by_loader": lambda: _run([_loader(), str(_own_program(directory))]),
        "tcp_connect": lambda: socket.create_connection(("127.0.0.1", targets.port), timeout=2).close(),
        "unix_socket": lambda: _connect(targets.unix),
        "abstract_socket": lambda: _connect(targets.abstract),
        "network_of_machine": lambda: _find_port(targets.port),
        "other_environment": lambda: Path(f"/proc/{victim}/environ").read_bytes(),
        "parent_environment": lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
        "see_other_process": lambda: os.stat(f"/proc/{victim}"),
        "signal_other": lambda: os.kill(victim, 0),
        "limit_other": lambda: resource.prlimit(victim, resource.RLIMIT_CPU, (1, 1)),
        "schedule_other": lambda: _schedule(victim),
        "slow_other": lambda: os.setpriority(os.PRIO_PROCESS, victim, 10),
        "trace_other": lambda: linux.syscall(calls["ptrace"], _PTRACE_ATTACH, victim, 0, 0),
        "shared_memory_of_other": lambda: linux.syscall(calls["shmat"], targets.shared_memory, 0, 0),
        "memory_without_owner": lambda: _memory_without_owner(calls),
        "outlive_supervisor": lambda: linux.prctl(linux.PR_SET_PDEATHSIG, 0),
        "leave_group": _leave_group,
        "user_namespace": lambda: linux.syscall(calls["unshare"], linux.CLONE_NEWUSER),
        "new_root": lambda: os.chroot(directory),
    }


def _connect(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(2)
        client.connect(address)


def _speak_to_self() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=2).close()


def _chmod(path: Path) -> None:
    path.chmod(0o755)
    if path.stat().st_mode & 0o777 != 0o755:
        raise PermissionError("nothing changed")


def _touch(path: Path) -> None:
    os.utime(path, (1, 1))
    if path.stat().st_mtime != 1:
        raise PermissionError("nothing changed")


def _schedule(process: int) -> None:
    before = os.sched_getaffinity(process)
    os.sched_setaffinity(process, {min(before)})
    if os.sched_getaffinity(process) == before:
        raise PermissionError("nothing changed")


def _watch(folder: Path, calls: dict[str, int]) -> None:
    watching = linux.syscall(calls["inotify_init1"], os.O_CLOEXEC)
    try:
        linux.syscall(calls["inotify_add_watch"], watching, linux.text(str(folder)), _IN_MODIFY)
    finally:
        os.close(watching)


def _memory_without_owner(calls: dict[str, int]) -> None:
    os.close(linux.syscall(calls["memfd_create"], linux.text("probe"), 0))


def _find_port(port: int) -> None:
    if f":{port:04X} " not in Path("/proc/self/net/tcp").read_text():
        raise PermissionError("it is another network")


def _own_program(directory: Path) -> Path:
    """A copy of a small program, executable from the start: modes cannot be changed in the sandbox."""
    target = directory / "program"
    if not target.exists():
        with open("/bin/true", "rb") as source, os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT, 0o700), "wb") as copy:
            shutil.copyfileobj(source, copy)
    return target


def _loader() -> str:
    """The program that loads others: named in the head of every one."""
    head = Path("/bin/true").read_bytes()
    start = head.index(b"/lib")
    return head[start : head.index(b"\0", start)].decode()


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=10)


def _leave_group() -> None:
    """A leader cannot make a session, but what it starts could; that the call returns success proves nothing."""
    reader, writer = os.pipe()
    group = os.getpgid(0)
    child = os.fork()
    if child == 0:
        answer_of(os.setsid)
        os.write(writer, b"denied" if os.getpgid(0) == group else b"open")
        os._exit(0)
    os.waitpid(child, 0)
    if os.read(reader, 16) == b"denied":
        raise PermissionError("it could not leave")
