"""How much freed memory the C library keeps for the next tensor."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_ON_HEAP = 32 << 20
"""The highest limit that glibc takes: larger tensors are mapped and unmapped one by one."""
_KEPT = 128 << 20


def keep_freed_memory() -> None:
    """Keep up to 128 MiB that tensors gave back, instead of returning them to the kernel after each forward pass.

    By default glibc gives every few megabytes back at once, and each pass then faults its activations in page by page: up to a third
    of the time of scoring a small network. The peak stays what the largest pass needs. Other C libraries than glibc are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_ON_HEAP)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
