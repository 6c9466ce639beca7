"""A disk that fills up under the running service: `python -m tests.faults.full_disk FOLDER`, where FOLDER/data and FOLDER/files/data are
small disks of their own.

`full_disk` makes such disks without root, each a tmpfs in a mount namespace of its own, and runs this module there.
"""

import errno
import json
import subprocess
import sys
import time
from http import HTTPStatus
from pathlib import Path

import numpy as np

from tests.compose import ROOT
from tests.faults.house import FEATURES, House
from tests.plain import ApiError

SIZE_MIB = 96
_MOUNT = (
    f'for disk in "$1/data" "$1/files/data"; do mount -t tmpfs -o size={SIZE_MIB}m tmpfs "$disk" || exit 1; done; '
    'exec "$0" -m tests.faults.full_disk "$1"'
)
PAUSE_SECONDS = 3


def full_disk(folder: Path) -> tuple[int, list[str], str | None]:
    """The row of the fault matrix."""
    for disk in (folder / "data", folder / "files" / "data"):
        disk.mkdir(parents=True)
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _MOUNT, sys.executable, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        return 1, [done.stderr[-3000:]], None
    found = json.loads(done.stdout.splitlines()[-1])
    return 1, found["violations"], found["note"]


def main(folder: Path) -> int:
    """Both faults; says what promises were broken, and what was seen."""
    outcomes = [whole_disk(folder), disk_of_files(folder / "files")]
    found = [sentence for violations, _ in outcomes for sentence in violations]
    sys.stdout.write(json.dumps({"violations": found, "note": "; ".join(note for _, note in outcomes)}) + "\n")
    return 0


def whole_disk(folder: Path) -> tuple[list[str], str]:
    """Database, files and jobs have one disk. It is filled while a job trains: whatever is refused says why; once there is room all is well."""
    house = House(folder)
    filler = folder / "data" / "filler"
    codes: list[str] = []
    try:
        house.wait_until_ready()
        assert house.end(house.submit(1))["status"] == "succeeded"
        running = house.submit(3000, export=["onnx", "safetensors"])
        house.in_training(running)
        deadline = time.monotonic() + 6
        while time.monotonic() < deadline:
            _fill(filler)
            codes.append(_refusal(house, len(codes)))
            time.sleep(0.3)
        assert "storage_full" in codes, codes
        assert set(codes) <= {"storage_full", "service_unavailable", ""}, codes
        filler.unlink()
        job = house.end(running)
        assert job["status"] == "succeeded" or job["error"]["code"] in ("out_of_disk", "storage_unavailable"), job["error"]
        assert _refusal(house, len(codes)) == ""
        found = _once_there_is_room(house)
    finally:
        filler.unlink(missing_ok=True)
        house.close()
    return found, f"{codes.count('storage_full')} of {len(codes)} uploads refused; the running job {job['status']}"


def disk_of_files(folder: Path) -> tuple[list[str], str]:
    """The database has a disk of its own. The other one is filled while a job computes, and between the child's end and the writing of its
    artifacts: both jobs say so and show nothing, and once there is room the next one succeeds.
    """
    pause = f"worker.child_ended:sleep({PAUSE_SECONDS})"
    house = House(folder, MODELPRESS_DATABASE_URL=f"sqlite:///{folder.resolve() / 'modelpress.db'}", MODELPRESS_FAILPOINT=pause)
    filler = folder / "data" / "filler"
    try:
        house.wait_until_ready()
        for path in (f"/v1/models/{house.model}", f"/v1/datasets/{house.dataset}"):
            house.until(lambda: house.client.json("GET", path)["status"] == "ready", "it is not looked into")  # noqa: B023
        for is_there in (True, False):
            job_id = house.submit(800, export=["onnx", "safetensors"])
            house.in_training(job_id)
            house.until(lambda: bool(house.pids("child")) == is_there, "the child does not end")  # noqa: B023
            _fill(filler)
            job = house.end(job_id)
            assert (job["status"], job["error"]["code"], job["attempt"]) == ("failed", "out_of_disk", 1), job["error"]
            assert ("service's disk" in job["error"]["message"]) != is_there, job["error"]
            assert house.client.json("GET", f"/v1/jobs/{job_id}/artifacts")["data"] == []
            assert list((folder / "data" / "blobs" / "staging").iterdir()) == []
            filler.unlink()
        found = _once_there_is_room(house)
    finally:
        filler.unlink(missing_ok=True)
        house.close()
    return found, "artifacts of two jobs found no room"


def _once_there_is_room(house: House) -> list[str]:
    """The next job succeeds; returns what promises were broken meanwhile."""
    assert house.end(house.submit(1))["status"] == "succeeded"
    house.wait_until_whole()
    return house.broken_promises(load_artifacts=True, grace_seconds=10)


def _fill(filler: Path) -> None:
    """Leave not a byte."""
    with filler.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def _refusal(house: House, seed: int) -> str:
    """The code with which an upload is refused; empty if it is taken."""
    file = house.folder / "another.npz"
    np.savez(file, x_train=np.full((2, FEATURES), seed, np.float32), y_train=np.arange(2))
    try:
        house.client.upload("datasets", file, "npz")
    except ApiError as error:
        code = str(error.code)
        return code if (error.status == HTTPStatus.INSUFFICIENT_STORAGE) == (code == "storage_full") else f"{error.status} {code}"
    except OSError as error:
        return f"no answer: {error!r}"
    return ""


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
