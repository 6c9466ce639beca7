"""The few system calls that Python's standard library does not offer."""

import ctypes
import errno
import fcntl
import os
import platform
import signal
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_holding_the_lock = ctypes.PyDLL(None, use_errno=True)
_holding_the_lock.syscall.restype = ctypes.c_long

PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
_CLONE = {"x86_64": 56, "aarch64": 220}
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SIGNAL_SET_BYTES, _SIGNAL_INFO_BYTES = 128, 128
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1

MACHINE = platform.machine()


def syscall(number: int, *arguments: int | ctypes.Array[ctypes.c_char] | None) -> int:
    """Call the kernel directly. Raises OSError."""
    converted = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *converted)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def prctl(option: int, *arguments: int) -> int:
    """Change a property of this thread (see prctl(2)). Raises OSError."""
    values = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    result: int = _libc.prctl(ctypes.c_int(option), *values)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def rename(name: str) -> None:
    """Name this thread, as tools that list processes show it."""
    _libc.prctl(ctypes.c_int(_PR_SET_NAME), text(name[:15]), *(ctypes.c_ulong(0),) * 3)


def die_with_parent(parent: int, signal_number: int) -> None:
    """Have this process receive `signal_number` when the thread of `parent` that started it ends; exit if it has ended already."""
    prctl(PR_SET_PDEATHSIG, signal_number)
    if (os.getppid() or _parent_outside()) != parent:
        os._exit(1)


def _parent_outside() -> int:
    """The parent of the first process of a process namespace, by the numbers of the namespace whose /proc is still mounted."""
    return int(stat_of("self")[1])


def stat_of(pid: int | str) -> list[str]:
    """The fields of /proc/PID/stat that follow the name: state, parent and so on, see proc(5). Raises OSError where there is no such process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def signal_file(signals: Iterable[signal.Signals]) -> int:
    """A descriptor that can be read while one of the signals, which must be blocked, is pending: see signalfd(2). Raises OSError."""
    mask = sum(1 << (number - 1) for number in signals)
    result: int = _libc.signalfd(-1, ctypes.create_string_buffer(mask.to_bytes(_SIGNAL_SET_BYTES, sys.byteorder)), os.O_CLOEXEC)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def read_signal(descriptor: int) -> tuple[signal.Signals, int]:
    """The next pending signal, which it takes, and the process that sent it."""
    what = os.read(descriptor, _SIGNAL_INFO_BYTES)
    return signal.Signals(struct.unpack_from("=I", what)[0]), struct.unpack_from("=I", what, 12)[0]


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """See mount(2). Raises OSError."""
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    if _libc.mount(*encoded, ctypes.c_ulong(flags), options.encode()) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)


def unmount(target: str, flags: int) -> None:
    """See umount2(2). Raises OSError."""
    if _libc.umount2(os.fsencode(target), ctypes.c_int(flags)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)


def pivot_root(new: str, old: str) -> None:
    """See pivot_root(2). Raises OSError."""
    syscall(_PIVOT_ROOT[MACHINE], text(new), text(old))


def drop_capabilities() -> None:
    """Give up every capability for good, so that being root means owning root's files and nothing more. Raises OSError."""
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == errno.EPERM:  # not privileged: the bounding set cannot matter, since no_new_privs is set as well
                break
            if error.errno == errno.EINVAL:  # past the kernel's last capability
                break
            raise
    prctl(PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if _libc.capset(header, nothing) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def fork_into(namespaces: int) -> int:
    """Fork a child into new namespaces, of which `CLONE_NEWPID` makes it the first process; returns 0 there. Raises OSError.

    The C library does not know of this fork, so the process must have one thread, and the child should do little but fork again.
    """
    number = _CLONE.get(MACHINE)
    if number is None:
        raise OSError(errno.ENOSYS, f"no system call table for {MACHINE}")
    hooks = ctypes.pythonapi
    hooks.PyOS_BeforeFork()
    pid = int(
        _holding_the_lock.syscall(ctypes.c_long(number), *(ctypes.c_ulong(value) for value in (namespaces | signal.SIGCHLD, 0, 0, 0, 0)))
    )
    if pid == 0:
        hooks.PyOS_AfterFork_Child()
    else:
        hooks.PyOS_AfterFork_Parent()
    if pid < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return pid


def unshare(namespaces: int) -> None:
    """Move this process into new namespaces; it must have one thread. Raises OSError."""
    if _libc.unshare(namespaces) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def stay_oneself(user: int, group: int) -> None:
    """In a new user namespace, be who one was outside, and nobody else be there. Raises OSError."""
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def private_network() -> None:
    """Move this process into a network of its own, in which there is a loopback device and nothing else. Raises OSError.

    The user stays who it is; the process must have one thread.
    """
    user, group = os.getuid(), os.getgid()
    unshare(CLONE_NEWUSER | CLONE_NEWNET)
    stay_oneself(user, group)
    raise_loopback()


def raise_loopback() -> None:
    """Switch on the loopback device of a new network. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = bytearray(struct.pack("16sh22x", b"lo", 0))
        fcntl.ioctl(control, _SIOCGIFFLAGS, request)
        (flags,) = struct.unpack_from("h", request, 16)
        struct.pack_into("h", request, 16, flags | _IFF_UP)
        fcntl.ioctl(control, _SIOCSIFFLAGS, request)


def thread_count() -> int:
    """Threads of this process."""
    return len(os.listdir("/proc/self/task"))


def text(value: str) -> ctypes.Array[ctypes.c_char]:
    """A string as a system call takes it."""
    return ctypes.create_string_buffer(os.fsencode(value))


@contextmanager
def shared_memory(size_bytes: int = 4096) -> Iterator[int]:
    """The number of a System V segment of this user, gone at the end; -1 where the kernel has none."""
    segment = int(_libc.shmget(0, ctypes.c_size_t(size_bytes), 0o600))
    try:
        yield segment
    finally:
        if segment >= 0:
            _libc.shmctl(segment, 0, None)
