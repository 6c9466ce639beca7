"""Networks of real size, each step beside the plain script in one run: ResNet-50 and ViT-B/16 with random weights, 224 × 224.

    python -m benchmarks.peers.real_size [--networks resnet50 vit_b16] [--runs 1] [--build build/real_size] [--json FILE]

Structured pruning of half of the channels, nothing scored: seconds of the removal and peak memory of the process, ours within 2 and 1.5
times of a plain torch-pruning script. Static int8 on 64 images, as many threads as cores on either side (the default of ONNX Runtime's tools, which
cannot be told another number): wall seconds and peak memory of the whole process, ours against ONNX Runtime's own tools,
and how far both files are from the float network. Runs take turns. Bar: ours within 1.0 times in both, and at least .98 agreement or,
where static int8 stays below that, dynamic int8 above it. Whole jobs of one such step each: seconds beside the step (reading, scoring the
64 images with both networks, writing, checking, timing, the report), within 12 for the ResNet and 30 for the ViT. What is done beside a step on another
core counts as far as it outlasts it.
"""

import argparse
import json
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.peers.real_networks import NETWORKS, make
from benchmarks.peers.static_int8 import ROOT, THREADS, measured

BAR = 1.0
PRUNING_BARS = {"wall_seconds": 2.0, "peak_bytes": 1.5}
JOB_SECONDS = {"resnet50": 12.0, "vit_b16": 30.0}
JOBS: dict[str, dict[str, Any]] = {
    "pruning": {"method": "structured_pruning", "pruning_ratio": 0.5},
    "static int8": {"method": "static_quantization", "calibration": {"samples": 64}},
}
STEP = {"calibration": {"samples": 64}}


def static_part(name: str, build: Path, runs: int) -> dict[str, float]:
    """Figures of static int8 by name; those that end in `ratio` are held against the bar."""
    network, data = make(name, build)
    here = Path(__file__).parent
    files = {side: build / f"{name}_{side}.onnx" for side in ("plain", "ours")}
    metadata = build / "metadata.json"
    metadata.write_text("{}")
    commands = {
        "plain": [sys.executable, str(here / "plain_real_size.py"), str(network), str(data), str(files["plain"])],
        "ours": [
            sys.executable,
            str(here / "our_step.py"),
            str(network),
            str(data),
            str(files["ours"]),
            str(metadata),
            str(THREADS),
            json.dumps(STEP),
        ],
    }
    taken: dict[str, list[dict[str, Any]]] = {side: [] for side in commands}
    for _ in range(runs):
        for side, command in commands.items():
            taken[side].append(measured(command))
    figures: dict[str, float] = {}
    for key, title, unit in (("wall_seconds", "wall s", 1), ("cpu_seconds", "CPU s", 1), ("peak_bytes", "peak MB", 1e-6)):
        values = {side: statistics.median(run[key] for run in taken[side]) * unit for side in commands}
        figures |= {f"{name}, static int8, {title}, {side}": value for side, value in values.items()}
        figures[f"{name}, static int8, {title}, ours/plain {'share' if key == 'cpu_seconds' else 'ratio'}"] = (
            values["ours"] / values["plain"]
        )
    images = np.load(data)["x_test"]
    expected = _outputs(network, images)
    for side, file in files.items():
        found = _outputs(file, images)
        figures[f"{name}, static int8, agreement, {side}"] = float((found.argmax(1) == expected.argmax(1)).mean())
        noise = np.square(found.astype(np.float64) - expected).sum()
        figures[f"{name}, static int8, SQNR dB, {side}"] = float(10 * np.log10(np.square(expected.astype(np.float64)).sum() / noise))
        figures[f"{name}, static int8, file MB, {side}"] = file.stat().st_size * 1e-6
    return figures


def pruning_part(name: str, build: Path, runs: int) -> dict[str, float]:
    """Figures of structured pruning by name; ratios are given as shares of their bar."""
    network, _ = make(name, build)
    script = str(Path(__file__).with_name("real_pruning.py"))
    taken: dict[str, list[dict[str, Any]]] = {side: [] for side in ("plain", "ours")}
    for _ in range(runs):
        for side, found in taken.items():
            run = measured([sys.executable, script, side, name, str(network)])
            found.append(json.loads(run["output"]) | {"peak_bytes": run["peak_bytes"]})
    figures: dict[str, float] = {}
    for key, title, unit in (("wall_seconds", "wall s", 1), ("cpu_seconds", "CPU s", 1), ("peak_bytes", "peak MB", 1e-6)):
        values = {side: statistics.median(run[key] for run in taken[side]) * unit for side in taken}
        figures |= {f"{name}, pruning, {title}, {side}": value for side, value in values.items()}
        if key in PRUNING_BARS:
            bar = PRUNING_BARS[key]
            figures[f"{name}, pruning, {title}, ours/plain of {bar:g} ratio"] = values["ours"] / values["plain"] / bar
    for side, found in taken.items():
        figures[f"{name}, pruning, parameters left M, {side}"] = found[-1]["params_count"] * 1e-6
    return figures


def job_part(name: str, build: Path) -> dict[str, float]:
    """Seconds of whole jobs, without those of their steps; ratios are given as shares of the bar."""
    network, data = make(name, build)
    figures: dict[str, float] = {}
    for title, step in JOBS.items():
        spec, out = build / "spec.json", build / "job"
        shutil.rmtree(out, ignore_errors=True)
        spec.write_text(json.dumps({"steps": [step]}))
        command = [sys.executable, "-m", "engine", "run", str(spec), "--model", str(network), "--data", str(data), "--out", str(out)]
        run = measured([*command, "--json-events"])
        report = json.loads((out / "report.json").read_text())
        inside = sum(step["duration_seconds"] for step in report["steps"])
        figures |= {
            f"{name}, job of {title}, step s": inside,
            f"{name}, job of {title}, beside s": report["duration_seconds"] - inside,
            f"{name}, job of {title}, beside of {JOB_SECONDS[name]:g} s ratio": (report["duration_seconds"] - inside) / JOB_SECONDS[name],
            f"{name}, job of {title}, peak MB": run["peak_bytes"] * 1e-6,
        }
    return figures


def _outputs(file: Path, images: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": image[None]})[0] for image in images])


def main() -> None:
    """Print the figures; ends with 1 where a ratio misses the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "real_size")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures: dict[str, float] = {}
    for name in options.networks:
        figures |= pruning_part(name, options.build.absolute(), options.runs)
        figures |= static_part(name, options.build.absolute(), options.runs)
        figures |= job_part(name, options.build.absolute())
    for title, value in figures.items():
        print(f"{title:56} {value:.4g}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    sys.exit(0 if all(value <= BAR for title, value in figures.items() if title.endswith("ratio")) else 1)


if __name__ == "__main__":
    main()
