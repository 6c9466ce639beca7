"""How much looking at a stranger's file may cost: a process that serves others looks for a while, one in a sandbox to the end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


class Unfinished(Exception):
    """The look has cost what it may, and found nothing wrong so far."""


@dataclass
class _Allowance:
    units: int
    deadline: float


_left: ContextVar[_Allowance | None] = ContextVar("effort", default=None)


def spend(units: int = 1) -> None:
    """Account for work of about so many microseconds. Raises Unfinished where no more is allowed."""
    left = _left.get()
    if left is None:
        return
    left.units -= units
    if left.units < 0 or time.monotonic() > left.deadline:
        raise Unfinished


@contextmanager
def at_most(units: int, seconds: float) -> Iterator[None]:
    """Within the block no more than this is spent."""
    token = _left.set(_Allowance(units, time.monotonic() + seconds))
    try:
        yield
    finally:
        _left.reset(token)
