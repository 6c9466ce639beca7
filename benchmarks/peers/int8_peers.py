"""Static int8 of one ResNet-18-like network by this project and by four others, on the same 320 images.

    python -m benchmarks.peers.int8_peers [--nncf PYTHON] [--neural-compressor PYTHON] [--torchao PYTHON] [--runs 3] [--build build/peers] [--json FILE]

Each peer is called by the Python of its own virtual environment (`pip install nncf`, `onnx-neural-compressor`, `torchao`; each needs NumPy, torch or
onnxruntime beside it); one that is not given, or does not run, is counted as absent and said. ONNX Runtime's own tools run with this project's Python.
Runs take turns; wall time is that of the whole process, peak memory that of all its processes (proportional set size). Files are scored in ONNX Runtime
on 2,000 test images; torchao's result is an exported program of torch and is scored by torch.

Bars: size and accuracy no worse than the best peer's, wall time at most that of the fastest that reaches this accuracy, peak memory at most 0.7 times
its. Ends with 1 where one is missed.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.peers.residual_network import make
from benchmarks.peers.static_int8 import ROOT, THREADS, measured

POINT = 0.0025
"""Top-1 of 2,000 images that counts as equal: five images."""
PEERS = ("nncf", "neural-compressor", "torchao")


def main() -> None:
    """Print a row each; ends with 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in PEERS:
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "peers")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    build = options.build.absolute()
    network, data, metadata = (build / name for name in ("network.onnx", "data.npz", "metadata.json"))
    make(ROOT / "examples", network, data)
    metadata.write_text(json.dumps({"preprocessing": {"scale": 1 / 255, "mean": 0.1307, "std": 0.3081, "layout": "NCHW"}}))
    commands = _commands(options, build, network, data, metadata)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    absent = {name: "not given" for name in PEERS if name not in commands}
    for _ in range(options.runs):
        for name in [name for name in commands if name not in absent]:
            try:
                runs[name].append(measured(commands[name]))
            except (SystemExit, OSError) as error:
                if name == "ours":
                    raise
                absent[name] = str(error).strip().splitlines()[-1]
    rows = {name: _row(found, _file(build, name), data, commands[name]) for name, found in runs.items() if name not in absent}
    for name, row in rows.items():
        print(f"{name:20}" + "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
    for name, why in absent.items():
        print(f"{name:20}absent: {why}")
    missed = bars(rows)
    print("\n".join(missed) or "every bar is met")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "absent": absent, "missed": missed}, indent=1))
    sys.exit(1 if missed else 0)


def _file(build: Path, name: str) -> Path:
    return build / (f"{name}.pt2" if name == "torchao" else f"{name}.int8.onnx")


def _commands(options: argparse.Namespace, build: Path, network: Path, data: Path, metadata: Path) -> dict[str, list[str]]:
    here = Path(__file__).parent

    def plain(python: Path | str, script: str, name: str, source: Path = network) -> list[str]:
        return [str(python), str(here / script), str(source), str(data), str(_file(build, name))]

    found = {
        "ours": [*plain(sys.executable, "our_step.py", "ours"), str(metadata), str(THREADS)],
        "onnxruntime": plain(sys.executable, "plain_onnxruntime.py", "onnxruntime"),
    }
    if options.nncf:
        found["nncf"] = plain(options.nncf, "plain_nncf.py", "nncf")
    if options.neural_compressor:
        found["neural-compressor"] = plain(options.neural_compressor, "plain_neural_compressor.py", "neural-compressor")
    if options.torchao:
        found["torchao"] = plain(options.torchao, "plain_torchao.py", "torchao", network.with_suffix(".pt"))
    return found


def _row(runs: list[dict[str, Any]], file: Path, data: Path, command: list[str]) -> dict[str, float]:
    row = {key: statistics.median(run[key] for run in runs) for key in ("wall_seconds", "cpu_seconds", "peak_bytes")}
    return {**row, "file_bytes": sum(part.stat().st_size for part in file.parent.glob(f"{file.name}*")), "top1": _top1(file, data, command)}


def _top1(file: Path, data: Path, command: list[str]) -> float:
    if file.suffix != ".onnx":
        return float(
            subprocess.run(
                [*command, "--score"], check=True, capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
            ).stdout
        )
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    with np.load(data) as arrays:
        stored, labels = arrays["x_test"], arrays["y_test"]
    pieces = (stored[start : start + 250] for start in range(0, len(stored), 250))
    answers = [session.run(None, {"input": (piece.astype(np.float32) / 255 - 0.1307) / 0.3081})[0].argmax(1) for piece in pieces]
    return float((np.concatenate(answers) == labels).mean())


def bars(rows: dict[str, dict[str, float]]) -> list[str]:
    """What this project misses against the peers that ran."""
    ours, peers = rows["ours"], {name: row for name, row in rows.items() if name != "ours"}
    if not peers:
        return ["no peer ran"]
    smallest, best = min(row["file_bytes"] for row in peers.values()), max(row["top1"] for row in peers.values())
    right = {name: row for name, row in peers.items() if row["top1"] >= best - POINT}
    fastest = min(right, key=lambda name: right[name]["wall_seconds"])
    limits = (
        ("file_bytes", ours["file_bytes"] / smallest, 1.0),
        ("wall_seconds", ours["wall_seconds"] / right[fastest]["wall_seconds"], 1.0),
        ("peak_bytes", ours["peak_bytes"] / right[fastest]["peak_bytes"], 0.7),
    )
    missed = [f"{name} is {ratio:.3f} times the best peer's, {limit} is the bar" for name, ratio, limit in limits if ratio > limit]
    if ours["top1"] < best - POINT:
        missed.append(f"top1 is {ours['top1']:.4f}, {best:.4f} is the best peer's")
    return missed


if __name__ == "__main__":
    main()
