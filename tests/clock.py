"""Promises about time, on a machine that has other things to do."""

from collections.abc import Callable


def quickest(seconds: Callable[[], float], bound: float) -> float:
    """The least of up to three measurements, the first one below `bound` being enough.

    A machine may stall for longer than the program may take, and does so now and then; a program that is too slow is so each time.
    """
    least = seconds()
    for _ in range(2):
        if least < bound:
            break
        least = min(least, seconds())
    return least
