"""What confines a job child.

T0 always: own session, limits, scrubbed environment, private directory. T1: Landlock and seccomp. T2: these in namespaces of its own.
"""

import functools
import os
import resource
import sys
import sysconfig
from pathlib import Path

from engine.contract import plugins
from engine.process import linux
from engine.process.boot import packages
from engine.process.linux import PR_SET_NO_NEW_PRIVS, drop_capabilities, prctl, private_network, thread_count
from engine.process.request import NAMESPACES, Kind, Limits, Request
from engine.process.sandbox import landlock, namespaces, seccomp

LAYERS = ("landlock", "seccomp")
"""Layers that a kernel may lack; both together make tier 1, and with `NAMESPACES` tier 2."""
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/opt/nvidia", "/etc/ld.so.cache", "/etc/localtime", "/etc/timezone")
_SELF = (
    "auxv",
    "cmdline",
    "comm",
    "environ",
    "exe",
    "fd",
    "io",
    "limits",
    "maps",
    "oom_score_adj",
    "smaps",
    "smaps_rollup",
    "stat",
    "statm",
    "status",
)
"""Of its own folder in /proc: not `net`, `mountinfo` and the like, which describe the machine."""
_FACTS = (
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/vm",
    "/proc/sys/kernel/cap_last_cap",
    "/sys/devices",
    "/sys/bus/pci",
    "/sys/class/drm",
    "/sys/kernel/mm/transparent_hugepage",
)
_DEVICES = ("/dev/null", "/dev/full", "/dev/random", "/dev/urandom")
_GPU_FACTS = ("/proc/driver/nvidia", "/proc/devices", "/proc/modules", "/sys/module/nvidia")


_ADDRESSES_BYTES = 256 << 30
"""Addresses for files that are mapped, data sets above all; without any bound, tables of pages that hold nothing fill the memory."""


class IsolationUnavailable(Exception):
    """A layer that was asked for could not be put on; nothing of the job has run."""


def stay_oneself(owner: tuple[int, int]) -> None:
    """Be the owner's user and group in a user namespace of one's own. Raises IsolationUnavailable."""
    if os.getpid() != namespaces.FIRST:
        raise IsolationUnavailable("the kernel gives no namespaces")
    try:
        linux.stay_oneself(*owner)
    except OSError as error:
        raise IsolationUnavailable(f"the kernel refused: {error}") from error


def enclose(kind: Kind) -> None:
    """Make the namespaces of a child, with what it may read in them, before it is known where it will live. Raises IsolationUnavailable."""
    granted = rules(kind)
    readable = [path for rights in (landlock.READ_EXECUTE, landlock.READ) for path in granted[rights]]
    try:
        namespaces.make(readable, granted[landlock.DEVICE])
    except OSError as error:
        raise IsolationUnavailable(f"the kernel refused: {error}") from error


def move_in(directory: Path) -> None:
    """Leave the machine's files behind, but for the child's own directory. Raises IsolationUnavailable."""
    try:
        namespaces.enter(directory)
    except OSError as error:
        raise IsolationUnavailable(f"the kernel refused: {error}") from error


def confine(request: Request) -> None:
    """Put `request`'s limits and layers on this process, for good.

    Raises:
        IsolationUnavailable: A layer failed, or the process has threads, which the layers would not hold.
    """
    try:
        if request.layers and thread_count() != 1:
            raise IsolationUnavailable("the process already has several threads")
        if request.sockets == "private" and NAMESPACES not in request.layers:
            private_network()
        set_limits(request.limits)
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        if "landlock" in request.layers:
            landlock.restrict({**rules(request.kind), landlock.OWN: [request.directory]}, tcp=request.sockets != "none")
        drop_capabilities()
        if "seccomp" in request.layers:
            seccomp.restrict(
                hold_signals=landlock.abi() < 6, inet=request.sockets != "none", gpu=request.gpu, enclosed=NAMESPACES in request.layers
            )
    except OSError as error:
        raise IsolationUnavailable(f"the kernel refused: {error}") from error


def set_limits(limits: Limits) -> None:
    """Set resource limits; never raises one above what the process already has."""
    if limits.memory_bytes is not None:
        _lower(resource.RLIMIT_DATA, _data_bytes() + limits.memory_bytes)
        _lower(resource.RLIMIT_AS, _address_bytes() + 4 * limits.memory_bytes + _ADDRESSES_BYTES)
    if limits.cpu_seconds is not None:
        _lower(resource.RLIMIT_CPU, limits.cpu_seconds, limits.cpu_seconds + 5)
    _lower(resource.RLIMIT_FSIZE, limits.file_bytes)
    _lower(resource.RLIMIT_NPROC, _threads_of_user() + limits.processes)
    _lower(resource.RLIMIT_NOFILE, limits.open_files)
    _lower(resource.RLIMIT_CORE, 0)


def _lower(which: int, soft: int, hard: int | None = None) -> None:
    ceiling = resource.getrlimit(which)[1]
    bounds = [value if ceiling == resource.RLIM_INFINITY else min(value, ceiling) for value in (soft, hard if hard is not None else soft)]
    resource.setrlimit(which, (bounds[0], bounds[1]))


def _data_bytes() -> int:
    """Private memory of this process, as RLIMIT_DATA counts it."""
    return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()


def _address_bytes() -> int:
    """Addresses of this process, as RLIMIT_AS counts them."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _threads_of_user() -> int:
    """Threads of this process's user, as RLIMIT_NPROC counts them."""
    count, user = 0, os.getuid()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if entry.stat().st_uid == user:
                    count += len(os.listdir(entry / "task"))
            except OSError:  # it ended while we looked
                continue
    return count


def rules(kind: Kind) -> dict[int, list[Path]]:
    """What a child may reach beside its own directory: the interpreter, its libraries, the engine and its plug-ins to read, a few facts and
    devices."""
    facts = [Path(path) for path in (*_FACTS, *(_GPU_FACTS if kind.gpu else ()))]
    facts += [Path("/proc/self") / name for name in _SELF]
    devices = [Path(path) for path in _DEVICES]
    if kind.gpu:
        devices.append(Path("/dev/zero"))  # which is memory without an owner to whoever maps it
        devices += [Path("/dev/shm"), *Path("/dev").glob("nvidia*"), *Path("/proc/self/task").glob("*/comm")]  # noqa: S108 - shared memory, no temporary file
    return {
        landlock.READ_EXECUTE: [*(Path(path) for path in _SYSTEM), *_libraries()],
        landlock.READ: [*packages(), *plugins.folders(), *facts],
        landlock.DEVICE: devices,
    }


@functools.cache
def _libraries() -> set[Path]:
    """Where the interpreter and the installed packages live. The folder of a source checkout is not among them: data may lie there."""
    places = {sys.prefix, sys.base_prefix, sys.exec_prefix, *sysconfig.get_paths().values()}
    places |= {path for path in sys.path if path.endswith(("site-packages", "dist-packages"))}
    places |= set(filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":")))
    return {Path(path).resolve() for path in places}
