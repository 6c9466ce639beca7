"""Identifiers: a prefix that names its kind, and 26 characters that sort by time (a ULID in lower case).

48 bits of milliseconds and 80 random bits, in Crockford's base 32. Ids made in one process grow strictly.
"""

import os
import threading
import time
from typing import Literal

Prefix = Literal["prj", "key", "mdl", "ds", "job", "art", "upl", "wrk", "tpl", "whk", "dlv", "msg"]
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_RANDOM_BITS = 80
_lock = threading.Lock()
_last = 0


def new(prefix: Prefix) -> str:
    """A fresh id such as `job_01kb2…`."""
    return f"{prefix}_{_encode(_next())}"


def _next() -> int:
    global _last  # noqa: PLW0603 - the last id of this process
    with _lock:
        value = (time.time_ns() // 1_000_000 << _RANDOM_BITS) | int.from_bytes(os.urandom(10), "big")
        if value <= _last:
            # The clock stood still or went back: go on from the last id, by a random step so that forks differ.
            value = _last + 1 + int.from_bytes(os.urandom(4), "big")
        _last = value
    return value


def _encode(value: int) -> str:
    return "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))
