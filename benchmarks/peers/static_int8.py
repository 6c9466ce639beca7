"""Static int8 of one ResNet-18-like network on 320 calibration images: this project against a plain ONNX Runtime script.

    python -m benchmarks.peers.static_int8 [--runs 3] [--build build/peers] [--json FILE]

Runs take turns in processes of their own, with as many threads as the machine has cores. Three comparisons: the quantization alone,
against a script that prepares the graph as the manual says and against one that leaves that out, and the whole job (both files scored
on 2,000 images, timed at batch 1, compressed by gzip). Peak memory is that of all processes of a
side together (proportional set size, sampled). Bar: wall time and peak memory within 1.2 times, accuracy and size equal.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.peers.residual_network import make

ROOT = Path(__file__).parents[2]
BAR = 1.2
THREADS = len(os.sched_getaffinity(0))


def measured(command: list[str]) -> dict[str, Any]:
    """Run a command; wall seconds, CPU seconds, and the peak of the memory of it and its descendants in bytes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    before = os.times()
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=ROOT)
    peak = [0]
    sampler = threading.Thread(target=_sample, args=(process, peak))
    sampler.start()
    output, errors = process.communicate()
    wall = time.perf_counter() - begin
    sampler.join()
    after = os.times()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: {errors.decode()[-2000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall_seconds": wall, "cpu_seconds": cpu, "peak_bytes": peak[0], "output": output.decode()}


def _sample(process: subprocess.Popen[bytes], peak: list[int]) -> None:
    while process.poll() is None:
        began = time.perf_counter()
        peak[0] = max(peak[0], sum(_proportional_bytes(pid) for pid in _family(process.pid)))
        # To look takes long where much memory is mapped, and holds up who is looked at.
        time.sleep(max(0.02, 20 * (time.perf_counter() - began)))


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(member for child in children for member in _family(int(child)))]


def _proportional_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def main() -> None:
    """Print the ratios; ends with 1 where the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "peers")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    build = options.build.absolute()
    network, data, metadata, spec = (build / name for name in ("network.onnx", "data.npz", "metadata.json", "spec.json"))
    make(ROOT / "examples", network, data)
    metadata.write_text(json.dumps({"preprocessing": {"scale": 1 / 255, "mean": 0.1307, "std": 0.3081, "layout": "NCHW"}}))
    step = {"method": "static_quantization", "calibration": {"samples": 320, "batch_size": 32}, "reduce_range": True}
    spec.write_text(json.dumps({"steps": [step], "evaluation": {"latency": {"threads": THREADS}}}))
    plain = [sys.executable, str(Path(__file__).with_name("plain_onnxruntime.py")), str(network), str(data)]
    ours = [sys.executable, str(Path(__file__).with_name("our_step.py")), str(network), str(data)]
    job = [sys.executable, "-m", "engine", "run", str(spec), "--model", str(network), "--data", str(data)]
    job += ["--data-metadata", str(metadata), "--out", str(build / "job"), "--threads", str(THREADS)]
    commands = {
        ("quantization", "plain"): [*plain, str(build / "plain.onnx")],
        ("quantization", "bare"): [*plain, str(build / "bare.onnx"), "--bare"],
        ("quantization", "ours"): [*ours, str(build / "ours.onnx"), str(metadata), str(THREADS)],
        ("whole job", "plain"): [*plain, str(build / "plain.onnx"), "--whole"],
        ("whole job", "ours"): job,
    }
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {key: [] for key in commands}
    for _ in range(options.runs):
        for key, command in commands.items():
            runs[key].append(measured(command))
    report = json.loads((build / "job" / "report.json").read_text())
    scored = json.loads(runs["whole job", "plain"][-1]["output"])
    figures = _figures(runs, report, scored, build)
    for name, value in figures.items():
        print(f"{name:44} {value:.4g}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    ratios = [value for name, value in figures.items() if name.endswith("ratio")]
    same = abs(figures["top1 ours"] - figures["top1 plain"]) <= 0.005 and abs(figures["file size, ours/plain"] - 1) <= 0.01
    sys.exit(0 if max(ratios) <= BAR and same else 1)


def _figures(
    runs: dict[tuple[str, str], list[dict[str, Any]]], report: dict[str, Any], scored: dict[str, Any], build: Path
) -> dict[str, float]:
    figures: dict[str, float] = {}
    for what, other in (("quantization", "plain"), ("quantization", "bare"), ("whole job", "plain")):
        for key, name, unit in (("wall_seconds", "wall", 1), ("cpu_seconds", "CPU", 1), ("peak_bytes", "peak memory MB", 1e-6)):
            values = {side: statistics.median(run[key] for run in runs[what, side]) * unit for side in (other, "ours")}
            figures |= {f"{what}, {name}, {side}": value for side, value in values.items()}
            if key != "cpu_seconds":
                figures[f"{what}, {name}, ours/{other} ratio"] = values["ours"] / values[other]
    figures["top1 original"] = scored["top1"][0]
    figures["top1 plain"] = scored["top1"][1]
    figures["top1 ours"] = report["result"]["metrics"]["test.top1"]
    figures["file size, ours/plain"] = report["result"]["file_bytes"] / (build / "plain.onnx").stat().st_size
    figures["latency p50 ms, plain"], figures["latency p50 ms, ours"] = scored["p50_ms"][1], report["result"]["latency_ms"]["p50"]
    return figures


if __name__ == "__main__":
    main()
