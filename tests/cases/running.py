"""Runs the jobs of a case in this process and compares the published file with the original in stock ONNX Runtime."""

import functools
import json
import runpy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from engine.jobs.run import run_job
from tests.cases import prelude

HERE = Path(__file__).parent
EXPECTED: dict[str, dict[str, dict[str, Any]]] = json.loads((HERE / "expect.json").read_text())
"""By case and job, what must come out: `sqnr` (dB, least over the outputs), `top1`, `params_ratio` (at most), `smaller` (the file),
`same_types`, `same_params`, `ok` (the job ends well), `refused` (it may be refused with a reason, or must be: `only`)."""
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


def cases(quantized: bool) -> list[tuple[str, str]]:
    """(case, job) of the jobs whose names say that they quantize, or of all others."""
    kinds = ("static", "dynamic", "int8", "minmax", "entropy", "percentile")
    return [(case, tag) for case, jobs in EXPECTED.items() for tag in jobs if any(kind in tag for kind in kinds) == quantized]


@functools.cache
def _built(case: str, root: Path) -> tuple[Path, dict[str, dict[str, str]]]:
    folder = root / case
    folder.mkdir(parents=True)
    with prelude.begin(folder) as jobs, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runpy.run_path(str(HERE / "networks" / f"{case}.py"))
    return folder, {job["tag"]: job for job in jobs}


def faults(case: str, tag: str, root: Path) -> list[str]:
    """What is wrong with one job; nothing where it comes out as it must."""
    folder, jobs = _built(case, root)
    job, want = jobs[tag], EXPECTED[case][tag]
    directory = folder / f"job_{tag}"
    directory.mkdir()
    spec = {
        "model": "mdl_1",
        "dataset": "ds_1",
        "evaluation": {"latency": {"repeats": 5}},
        **json.loads((folder / job["spec"]).read_text()),
    }
    files = {
        "model": {"id": "mdl_1", "path": str(folder / job["model"]), "format": "onnx", "name": job["model"]},
        "dataset": {"id": "ds_1", "path": str(folder / job["data"]), "format": "npz", "name": job["data"]},
    }
    (directory / "job.json").write_text(json.dumps({"kind": "compress", "job_id": "job_case", "spec": spec, **files}))
    events: list[Any] = []
    status = run_job(directory, events.append)
    if status != 0:
        error = events[-1].error
        refused = bool(want.get("refused")) and error.category != "internal"
        return [] if refused else [f"{error.code}: {error.message}"]
    if want.get("refused") == "only":
        return ["was not refused"]
    return _compared(want, folder, job, directory / "out")


def _compared(want: dict[str, Any], folder: Path, job: dict[str, str], out: Path) -> list[str]:
    x = np.load(folder / job["data"])["x_test"]
    report = json.loads((out / "report.json").read_text())
    before, after = _outputs(folder / job["model"], x), _outputs(out / "model.onnx", x)
    if list(before) != list(after):
        return [f"outputs {list(before)} became {list(after)}"]
    found = []
    if "sqnr" in want:
        worst = min((_sqnr(before[name][1], after[name][1]), name) for name in before)
        found += [f"{worst[1]} at {worst[0]:.1f} dB, at least {want['sqnr']}"] if worst[0] < want["sqnr"] else []
    top1 = report["result"]["metrics"].get("test.top1", -1)
    found += [f"top1 {top1}, at least {want['top1']}"] if top1 < want.get("top1", -1) else []
    if want.get("same_types") and [kind for kind, _ in before.values()] != [kind for kind, _ in after.values()]:
        found.append("types of outputs changed")
    sizes = [(folder / job["model"]).stat().st_size, (out / "model.onnx").stat().st_size]
    found += [f"file {sizes[0]} -> {sizes[1]} bytes"] if want.get("smaller") and sizes[1] >= sizes[0] else []
    counts = [report[side]["params_count"] for side in ("baseline", "result")]
    too_many = "params_ratio" in want and counts[1] > want["params_ratio"] * counts[0]
    if too_many or (want.get("same_params") and counts[0] != counts[1]):
        found.append(f"parameters {counts[0]} -> {counts[1]}")
    return found


def _outputs(path: Path, x: NDArray[Any]) -> dict[str, tuple[str, NDArray[Any]]]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    x = np.ascontiguousarray(x).astype(_TYPES[given.type])
    size = given.shape[0] if isinstance(given.shape[0], int) else len(x)
    parts = []
    for start in range(0, len(x), size):
        piece = x[start : start + size]
        padded = np.concatenate([piece, np.repeat(piece[:1], size - len(piece), 0)])
        parts.append([value[: len(piece)] if value.ndim else value[None] for value in session.run(None, {given.name: padded})])
    return {
        output.name: (output.type, np.concatenate(part))
        for output, part in zip(session.get_outputs(), zip(*parts, strict=True), strict=True)
    }


def _sqnr(before: NDArray[Any], after: NDArray[Any]) -> float:
    if before.shape != after.shape:
        return -999.0
    a, b = (np.nan_to_num(value.astype(np.float64), nan=1e30, posinf=1e9, neginf=-1e9) for value in (before, after))
    return float(10 * np.log10(max((a * a).sum(), 1e-30) / max(((a - b) ** 2).sum(), 1e-30)))
