"""Starting to bring written pages to the disk early, so that the final `fsync` has little left to do."""

import ctypes
import sys

STRIDE_BYTES = 16 * 2**20
_SYNC_FILE_RANGE_WRITE = 2

_start = getattr(ctypes.CDLL(None), "sync_file_range", None) if sys.platform == "linux" else None
if _start is not None:
    _start.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


def start(fd: int, offset: int, size_bytes: int) -> None:
    """Ask the kernel to write a range to the disk in the background; a hint that is ignored where the platform has no such call."""
    if _start is not None:
        _start(fd, offset, size_bytes, _SYNC_FILE_RANGE_WRITE)
