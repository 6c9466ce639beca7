"""How much memory a job may have: what its spec asks for, within this worker's share of the machine."""

from core.settings import Settings
from worker.cgroups import memory_limit_bytes

_LEAST_BYTES = 256 << 20
_RESERVED_PART = 0.15
_RESERVED_BYTES = 1 << 30
"""Left for the service itself, its database and its warm parents: the larger of both, and half of the machine at most."""
_INSPECTORS = 1.5
"""Inspections together count as so many workers: three of them, each with half of a job's share."""


def bound_bytes(settings: Settings, *, asked: int | None, inspection: bool = False) -> int:
    """Memory that one job may take beside what all share.

    `asked` is the spec's `limits.memory_bytes`; the operator's bound, or the share of the machine, is never passed.
    """
    most = settings.job_memory_bytes or share_bytes(memory_limit_bytes(), settings.workers_here)
    if inspection:
        most = max(_LEAST_BYTES, most // 2)
    return min(asked or most, most)


def share_bytes(machine_bytes: int, workers: int) -> int:
    """An equal share for each of `workers` that run on one machine, with what is reserved and the inspections set apart."""
    reserved = min(max(_RESERVED_BYTES, int(machine_bytes * _RESERVED_PART)), machine_bytes // 2)
    return max(_LEAST_BYTES, int((machine_bytes - reserved) / (workers + _INSPECTORS)))
