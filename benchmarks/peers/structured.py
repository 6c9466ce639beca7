"""Half of the channels of the digit network of `examples/`, tuned: this project against a plain `torch-pruning` script.

    python -m benchmarks.peers.structured [--runs 3] [--epochs 3] [--build build/peers] [--json FILE]

Both remove the same share of every layer's channels by their L2 norm, tune with the same recipe on the same digits, score, export and
time. Runs take turns in processes of their own with one thread; run number n has seed n on both sides.
Bars: at least 4 times fewer MACs at no more than 0.3 points of accuracy lost; accuracy at most 0.2 points below the plain script's;
wall time within 1.2 times.
"""

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers.static_int8 import BAR, ROOT, measured

RATIO = 17 / 32
"""Whole channels of 32, 64, 128 and 256, and 4.4 times fewer MACs."""
MACS_BAR, DROP_BAR, ACCURACY_BAR = 4.0, 0.3, 0.2


def main() -> None:
    """Print the figures; ends with 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "peers")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    build = options.build.absolute()
    build.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[dict[str, Any]]] = {"plain": [], "ours": []}
    for seed in range(options.runs):
        runs["plain"].append(_plain(build, options.epochs, seed))
        runs["ours"].append(_ours(build, options.epochs, seed))
    figures = _figures(runs)
    for name, value in figures.items():
        print(f"{name:44} {value:.4g}")
    if options.json:
        options.json.write_text(json.dumps(figures | {"runs": runs}, indent=1))
    sys.exit(0 if all(bars(figures).values()) else 1)


def bars(figures: dict[str, float]) -> dict[str, bool]:
    """Which bars are met."""
    return {
        "macs": figures["MACs, original/ours"] >= MACS_BAR,
        "drop": figures["points lost, ours"] <= DROP_BAR,
        "accuracy": figures["points lost, ours"] - figures["points lost, plain"] <= ACCURACY_BAR,
        "wall": figures["wall, ours/plain ratio"] <= BAR,
    }


def _plain(build: Path, epochs: int, seed: int) -> dict[str, Any]:
    script, examples = Path(__file__).with_name("plain_torch_pruning.py"), ROOT / "examples"
    command = [sys.executable, str(script), str(examples / "digits.onnx"), str(examples / "digits.npz")]
    run = measured([*command, str(build / "plain.onnx"), str(RATIO), str(epochs), str(seed)])
    return run | json.loads(run.pop("output").splitlines()[-1])


def _ours(build: Path, epochs: int, seed: int) -> dict[str, Any]:
    step = {
        "method": "structured_pruning",
        "pruning_ratio": RATIO,
        "importance": "magnitude_l2",
        "finetune": {"epochs": epochs, "optimizer": "adamw", "learning_rate": 1e-3, "schedule": "cosine", "batch_size": 64},
    }
    spec, out = build / "structured.json", build / "structured"
    spec.write_text(json.dumps({"seed": seed, "steps": [step]}))
    command = [sys.executable, "-m", "engine", "run", str(spec), "--threads", "1", "--out", str(out)]
    command += ["--model", str(ROOT / "examples" / "digits.onnx"), "--data", str(ROOT / "examples" / "digits.npz")]
    run = measured([*command, "--data-metadata", str(ROOT / "examples" / "digits.metadata.json")])
    del run["output"]
    sides = [json.loads((out / "report.json").read_text())[side] for side in ("baseline", "result")]
    return run | {
        "top1": [side["metrics"]["test.top1"] for side in sides],
        "macs": [side["macs_count"] for side in sides],
        "p50_ms": [side["latency_ms"]["p50"] for side in sides],
        "gzip_bytes": [side["gzip_bytes"] for side in sides],
    }


def _figures(runs: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    figures: dict[str, float] = {"top1 original": runs["ours"][0]["top1"][0]}
    for side, rows in runs.items():
        lost = [100 * (row["top1"][0] - row["top1"][1]) for row in rows]
        figures |= {
            f"top1 {side}": statistics.fmean(row["top1"][1] for row in rows),
            f"points lost, {side}": statistics.fmean(lost),
            f"points lost, {side}, spread": statistics.stdev(lost) if len(lost) > 1 else 0.0,
            f"MACs, original/{side}": rows[0]["macs"][0] / rows[0]["macs"][1],
            f"latency, {side}/original": statistics.median(row["p50_ms"][1] / row["p50_ms"][0] for row in rows),
            f"gzip bytes, {side}": rows[0]["gzip_bytes"][1],
        }
        for key, name, unit in (("wall_seconds", "wall", 1), ("cpu_seconds", "CPU", 1), ("peak_bytes", "peak memory MB", 1e-6)):
            figures[f"{name}, {side}"] = statistics.median(row[key] for row in rows) * unit
    for name in ("wall", "CPU", "peak memory MB"):
        figures[f"{name}, ours/plain ratio"] = figures[f"{name}, ours"] / figures[f"{name}, plain"]
    return figures


if __name__ == "__main__":
    main()
