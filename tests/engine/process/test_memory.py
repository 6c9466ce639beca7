"""Freed memory stays with the process, and the collector leaves alone what it is told to."""

import gc
import subprocess
import sys
import weakref

import pytest

from engine.process.memory import collector_paused, give_back_networks, present_objects_kept

_FAULTS = """
import resource, sys
import numpy as np
from engine.process.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()

def once():
    arrays = [np.ones(1 << 18) for _ in range(32)]  # 64 MiB in tensors of 2 MiB, below the size of numpy's huge pages
    del arrays

for _ in range(3):
    once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    once()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_memory_that_was_freed_is_not_faulted_in_again() -> None:
    faults = {
        how: int(subprocess.run([sys.executable, "-c", _FAULTS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("kept", "returned")
    }
    pages = 4 * (64 << 20) // 4096
    assert faults["returned"] > pages / 2
    assert faults["kept"] < pages / 20


def test_the_collector_pauses_and_goes_on_whatever_happens() -> None:
    seen = []

    def fail() -> None:
        with collector_paused():
            seen.append(gc.isenabled())
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - it is our own
        fail()
    assert [*seen, gc.isenabled()] == [False, True]


def test_present_objects_are_set_aside_for_a_while_only() -> None:
    assert not gc.get_freeze_count()
    with present_objects_kept():
        aside = gc.get_freeze_count()
        assert aside > 10_000
        with present_objects_kept():
            pass
        assert gc.get_freeze_count() == pytest.approx(aside, rel=0.01)
    assert not gc.get_freeze_count()


class Loop:
    def __init__(self) -> None:
        self.itself = self


def test_what_refers_to_itself_is_given_back() -> None:
    with collector_paused():
        loop = Loop()
        known = weakref.ref(loop)
        del loop
        assert known() is not None
        give_back_networks()
        assert known() is None
