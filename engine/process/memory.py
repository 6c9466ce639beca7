"""How long memory is kept: what tensors gave back, and what Python's collector of cyclic garbage looks through."""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

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


def give_back_memory() -> None:
    """Return to the kernel what was freed: a graph that was read and dropped leaves as much behind as it weighs.

    Called between large things that do not live at the same time. Other C libraries than glibc are left alone.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def give_back_networks() -> None:
    """Return to the kernel what dropped networks held: a traced module refers to itself, and its weights stay until the collector looks."""
    gc.collect()
    give_back_memory()


@contextmanager
def collector_paused() -> Iterator[None]:
    """Look for no cyclic garbage inside of the block: imports make a million objects, and all of them stay."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def present_objects_kept() -> Iterator[None]:
    """Inside of the block the collector looks through the objects that were made there, and not again and again through all others.

    Where a parent has set objects aside for good already (`gc.freeze`), these are most, and they stay aside.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
