"""Everything that a child finds in its directory: `job.json`, its inputs, and the checkpoint to go on from."""

import json
from pathlib import Path
from typing import Any

from core.blobs import Blobs
from core.jobs import Claim, Input
from worker.stop import Stop

OUT = "out"
_INPUTS = Path("inputs")
_CHECKPOINT = _INPUTS / "checkpoint"


def stage(claim: Claim, blobs: Blobs, directory: Path, stop: Stop, *, device: str, threads: int, checkpoint_seconds: float) -> None:
    """Fill `directory` for `claim`. Every byte is verified against the hash under which it was stored.

    Raises:
        ServiceError: `checksum_mismatch`, `storage_full`, `service_unavailable`.
        Stopped: The attempt should end.
    """
    for name in (OUT, "tmp", str(_INPUTS)):
        (directory / name).mkdir(mode=0o700)

    def fetched(item: Input | None) -> dict[str, Any] | None:
        if item is None:
            return None
        stop.check()
        path = _INPUTS / f"{item.id}.{item.format}"
        blobs.fetch(item.blob, directory / path)
        (directory / path).chmod(0o400)
        return {"id": item.id, "path": str(path), "format": item.format, "metadata": item.metadata}

    job: dict[str, Any] = {
        "kind": claim.kind,
        "job_id": claim.job_id,
        "spec": claim.spec if claim.shown else None,
        "device": device,
        "threads": threads,
        "checkpoint_seconds": checkpoint_seconds,
        "model": fetched(claim.model),
        "dataset": fetched(claim.dataset),
        "teachers": {id_: fetched(teacher) for id_, teacher in claim.teachers.items() if claim.model is None or id_ != claim.model.id},
        "resume": None,
    }
    if claim.model is not None and claim.model.id in claim.teachers:
        job["teachers"][claim.model.id] = job["model"]
    if claim.checkpoint is not None:
        stop.check()
        blobs.fetch(claim.checkpoint, directory / _CHECKPOINT)
        job["resume"] = str(_CHECKPOINT)
    stop.check()
    (directory / "job.json").write_text(json.dumps(job))
