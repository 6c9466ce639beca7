"""seccomp: a deny-list of system calls that no compression job needs (seccomp(2)), as a classic BPF program.

Landlock holds files; this holds the rest: sockets of every family, tracing and memory of other processes, mounts, namespaces,
kernel interfaces with a history of holes, and whatever would let a process leave the group by which its supervisor kills it.
Numbers are from the kernel's tables for x86-64 and for arm64.
"""

import ctypes
import errno
import os
import signal
import socket
import struct

from engine.process.linux import MACHINE, PR_SET_SECCOMP, prctl

_MODE_FILTER = 2
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_X32_BIT = 0x40000000
_CLONE_NEW = 0x7E020080
"""CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET,TIME}."""

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

_REFUSED: dict[str, tuple[int | None, int | None]] = {
    # the network, filesystem sockets included; socketpair stays
    "socket": (41, 198),
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "migrate_pages": (256, 238), "move_pages": (279, 239),
    # out of the process group
    "setsid": (112, 157), "setpgid": (109, 154),
    # mounts and namespaces
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "open_tree_attr": (467, 467), "unshare": (272, 97), "setns": (308, 268),
    # the kernel itself
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443), "sethostname": (170, 161), "setdomainname": (171, 162),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266), "syslog": (103, 116),
    "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None), "uselib": (134, None), "nfsservctl": (180, 42),
    "lookup_dcookie": (212, 18), "vhangup": (153, 58), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262), "mknod": (133, None), "mknodat": (259, 33),
    "process_mrelease": (448, 448), "statmount": (457, 457), "listmount": (458, 458),
    # memory and queues that outlive the process, and those of others by their number
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188),
    "msgctl": (71, 187), "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192), "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    # Landlock does not hold who watches a folder
    "inotify_init": (253, None), "inotify_init1": (294, 26), "inotify_add_watch": (254, 27),
    # by path, on files that the user owns outside: Landlock knows truncation from ABI 3 only
    "truncate": (76, 45),
}  # fmt: skip

_IGNORED: dict[str, tuple[int | None, int | None]] = {
    # Landlock does not hold modes, owners and attributes of files outside; libraries that copy files call these and would fail on
    # an error, so they do nothing and report success.
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None), "lchown": (94, None),
    "fchown": (93, 55), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "removexattrat": (466, 466),
}  # fmt: skip

_TIMES: dict[str, tuple[int | None, int | None]] = {
    # Landlock does not hold times either. An error here: what makes a file if its time cannot be set (`Path.touch`) is to make it.
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
}  # fmt: skip
_UNCOUNTED = {"memfd_create": (319, 279), "memfd_secret": (447, 447)}
"""Memory in files without a name, which belongs to no process that could be asked for it; drivers of GPUs use it."""
_MMAP, _MAP_ANONYMOUS = (9, 222), 0x20
_MAP_PRIVATE = 0x02
_SELF_ONLY: dict[str, tuple[tuple[int | None, int | None], dict[int, int]]] = {
    # Scheduling, on this thread: call → the arguments that say so. Zero is the thread itself, or its process.
    "sched_setparam": ((142, 118), {0: 0}), "sched_setscheduler": ((144, 119), {0: 0}),
    "sched_setattr": ((314, 274), {0: 0}), "setpriority": ((141, 140), {0: 0, 1: 0}), "ioprio_set": ((251, 30), {0: 1, 1: 0}),
}  # fmt: skip
_AFFINITY = (203, 122)
"""Libraries set it on their own threads, which cannot be distinguished from others, and complain of an error: so it does nothing there."""
_PRCTL = (157, 167)
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_CLONE, _CLONE3, _PRLIMIT = (56, 220), (435, 435), (302, 261)
_KILL_CALL, _TGKILL = (62, 129), (234, 131)
_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
_SIGNALS = {"tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424)}


def supported() -> bool:
    """Whether the tables know this machine's architecture."""
    return MACHINE in _ARCHITECTURES


def restrict(*, hold_signals: bool, inet: bool = False, gpu: bool = False, enclosed: bool = False) -> None:
    """Refuse the listed system calls to this thread and all that it starts. Needs no_new_privs. Raises OSError.

    Args:
        hold_signals: Also refuse signals to anything but this very process and its group; for kernels whose Landlock cannot
            (before ABI 6). Descendants can then be killed only as a group.
        inet: Allow sockets of the internet's families, and netlink, by which libraries list the network's devices. What starts a
            session then gets success as its answer: torch gives each process of a job its own, which must stay in the job's group.
        gpu: Allow what drivers of GPUs need besides.
        enclosed: Allow times of files to be set, where all files but one's own are on mounts that cannot be written.
    """
    if not supported():
        raise OSError(errno.ENOSYS, f"no system call table for {MACHINE}")
    program = b"".join(_program(hold_signals=hold_signals, inet=inet, gpu=gpu, enclosed=enclosed))
    buffer = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer)))
    prctl(PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(header))


def _program(*, hold_signals: bool, inet: bool, gpu: bool, enclosed: bool) -> list[bytes]:
    audit, column = _ARCHITECTURES[MACHINE]
    refuse, ignore = _return(_ERRNO | errno.EPERM), _return(_ERRNO)
    program = [_load(4), _jump_equal(audit, 1, 0), _return(_KILL), _load(0)]
    if MACHINE == "x86_64":
        program += [_jump_at_least(_X32_BIT, 0, 1), refuse]
    refused, ignored = dict(_REFUSED), dict(_IGNORED)
    if hold_signals:
        refused |= _SIGNALS
    if not enclosed:
        refused |= _TIMES
    if not gpu:
        refused |= _UNCOUNTED
    if inet:
        ignored["setsid"] = refused.pop("setsid")
        families = [_jump_equal(family, left, 0) for family, left in zip(_FAMILIES, (3, 2, 1), strict=True)]
        program += _when((refused.pop("socket"))[column] or 0, [_load(_argument(0)), *families, refuse])
    for table, verdict in ((refused, refuse), (ignored, ignore)):
        for numbers in table.values():
            number = numbers[column]
            if number is not None:
                program += [_jump_equal(number, 0, 1), verdict]
    # clone3 passes its flags in memory, where no filter can look; on ENOSYS the C library falls back to clone
    program += [_jump_equal(_CLONE3[column], 0, 1), _return(_ERRNO | errno.ENOSYS)]
    program += _when(_CLONE[column], [_load(_argument(0)), _jump_any_bit(_CLONE_NEW, 0, 1), refuse])
    for numbers, required in _SELF_ONLY.values():
        if (number := numbers[column]) is not None:
            checks = [part for index, value in required.items() for part in (_load(_argument(index)), _jump_equal(value, 1, 0), refuse)]
            program += _when(number, checks)
    program += _when(_AFFINITY[column], [_load(_argument(0)), _jump_equal(0, 1, 0), ignore])
    # to outlive the supervisor, or to hide from it how much memory there is; the signal of a parent's death may be set to SIGKILL
    death = [_load(_argument(1)), _jump_equal(signal.SIGKILL, 1, 0), refuse, _return(_ALLOW)]
    dumpable = [_jump_equal(_PR_SET_DUMPABLE, 0, 1), refuse]
    program += _when(_PRCTL[column], [_load(_argument(0)), *dumpable, _jump_equal(_PR_SET_PDEATHSIG, 0, len(death)), *death])
    if not gpu:  # shared memory without a file: pages that nobody has mapped at the moment could not be found
        shared = [_load(_argument(3)), _jump_any_bit(_MAP_ANONYMOUS, 1, 0), _return(_ALLOW)]
        program += _when(_MMAP[column], [*shared, _jump_any_bit(_MAP_PRIVATE, 1, 0), refuse])
    # limits of other processes of the same user
    program += _when(_PRLIMIT[column], [_load(_argument(0)), _jump_equal(0, 1, 0), refuse])
    if hold_signals:
        me = os.getpid()
        own_group = (-me) & 0xFFFFFFFF
        kill = [_load(_argument(0)), *(_jump_equal(pid, left, 0) for pid, left in ((0, 3), (me, 2), (own_group, 1))), refuse]
        program += _when(_KILL_CALL[column], kill)
        program += _when(_TGKILL[column], [_load(_argument(0)), _jump_equal(me, 1, 0), refuse])
    return [*program, _return(_ALLOW)]


def _when(number: int, body: list[bytes]) -> list[bytes]:
    """Run `body` for one system call; what it does not refuse is allowed."""
    return [_jump_equal(number, 0, len(body) + 1), *body, _return(_ALLOW)]


def _argument(index: int) -> int:
    """Offset of the low half of an argument in `struct seccomp_data` (both architectures are little-endian)."""
    return 16 + 8 * index


def _load(offset: int) -> bytes:
    return struct.pack("=HBBI", 0x20, 0, 0, offset)


def _jump_equal(value: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("=HBBI", 0x15, if_true, if_false, value)


def _jump_at_least(value: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("=HBBI", 0x35, if_true, if_false, value)


def _jump_any_bit(bits: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("=HBBI", 0x45, if_true, if_false, bits)


def _return(verdict: int) -> bytes:
    return struct.pack("=HBBI", 0x06, 0, 0, verdict)
