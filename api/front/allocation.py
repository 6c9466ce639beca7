"""How this process keeps the memory of its buffers."""

import ctypes
import gc
import sys
from typing import Any

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_KEPT_BYTES = 32 * 2**20
_ROUNDS, _MOST_ROUNDS = 10, 40
"""Collections of younger objects between two of all, at least and at most."""
_WORTH_OBJECTS = 20_000


def keep_buffers() -> None:
    """Let glibc keep freed buffers of up to 32 MiB instead of giving each back to the kernel at once.

    A server's receive buffers are just large enough to be mapped and unmapped one by one, and their pages are then zeroed anew each time:
    without this, an upload of 2 GiB costs 700,000 page faults and three times the processor time. Other C libraries are left as they are.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option in (_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD):
            mallopt(option, _KEPT_BYTES if option != _M_TOP_PAD else _KEPT_BYTES // 8)
        # Threads take turns anyway; a heap for each of them would keep what any of them ever needed.
        mallopt(_M_ARENA_MAX, 2)


def collect_rarely() -> None:
    """Look for garbage among all objects less often while there is hardly any: the event loop stands still for it, for 0.1 s where a thousand
    requests wait. What was made so far, modules above all, is set aside for good."""
    gc.collect()
    gc.freeze()
    gc.callbacks.append(_collected)


def _collected(phase: str, what: dict[str, Any]) -> None:
    if phase == "stop" and what["generation"] == 2:
        young, middle, rounds = gc.get_threshold()
        gc.set_threshold(young, middle, _ROUNDS if what["collected"] > _WORTH_OBJECTS else min(_MOST_ROUNDS, 2 * rounds))
