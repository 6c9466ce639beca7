"""A disk that fills up under the running service: `python -m tests.faults.full_disk FOLDER`, where FOLDER/data is a small disk of its own.

`full_disk` makes such a disk without root, as a tmpfs in a mount namespace of its own, and runs this module there.
"""

import errno
import json
import subprocess
import sys
import time
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path

import numpy as np

from cli.client import ApiError
from tests.compose import ROOT
from tests.faults.house import FEATURES, House

SIZE_MIB = 96
_MOUNT = f'mount -t tmpfs -o size={SIZE_MIB}m tmpfs "$1/data" && exec "$0" -m tests.faults.full_disk "$1"'


def full_disk(folder: Path) -> tuple[int, list[str], str | None]:
    """The row of the fault matrix."""
    (folder / "data").mkdir(parents=True)
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _MOUNT, sys.executable, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        return 1, [done.stderr[-3000:]], None
    found = json.loads(done.stdout.splitlines()[-1])
    return 1, found["violations"], found["note"]


def main(folder: Path) -> int:
    """Fill the disk while a job trains; whatever is refused says why; once there is room all is well."""
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
        assert set(codes) <= {"storage_full", "service_unavailable", "cut off", ""}, codes
        filler.unlink()
        job = house.end(running)
        assert job["status"] == "succeeded" or job["error"]["code"] in ("out_of_disk", "storage_unavailable"), job["error"]
        assert _refusal(house, len(codes)) == ""
        assert house.end(house.submit(1))["status"] == "succeeded"
        house.wait_until_whole()
        found = house.broken_promises(load_artifacts=True, grace_seconds=10)
        note = f"{codes.count('storage_full')} of {len(codes)} uploads refused; the running job {job['status']}"
        sys.stdout.write(json.dumps({"violations": found, "note": note}) + "\n")
    finally:
        filler.unlink(missing_ok=True)
        house.close()
    return 0


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
    """The code with which an upload is refused; empty if it is taken. Small: the refusal comes before the body has been asked for."""
    file = house.folder / "another.npz"
    np.savez(file, x_train=np.full((2, FEATURES), seed, np.float32), y_train=np.arange(2))
    try:
        house.client.upload("datasets", file, "npz")
    except ApiError as error:
        code = str(error.problem["code"])
        return code if (error.status == HTTPStatus.INSUFFICIENT_STORAGE) == (code == "storage_full") else f"{error.status} {code}"
    except (OSError, HTTPException):
        return "cut off"
    return ""


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
