"""How much faster half of the channels is, as a job measures it: `python -m benchmarks.pruned_latency --json build/pruned_latency.json`.

Convolutional networks of the builtin architectures with random weights go through whole jobs (`python -m engine run`) that remove
half of every layer's channels; the figures are those of the jobs' reports: original and result timed in turns in ONNX Runtime.
Exit status 0 only if every network's latency falls below `--limit` of the original's.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

NETWORKS: dict[str, dict[str, Any]] = {
    "resnet20": {"image_size": 32},
    "resnet18": {"image_size": 64},
    "vgg16_bn": {"image_size": 32},
    "mobilenet_v2": {"image_size": 96},
    "densenet40": {"image_size": 32},
}
"""Builtin architectures and the parameters that keep a run short."""


def measure(name: str, params: dict[str, Any], folder: Path, *, ratio: float, batch_sizes: list[int]) -> list[dict[str, Any]]:
    """Run one job; returns a row for each batch size."""
    model = folder / f"{name}.json"
    model.write_text(json.dumps({"name": name, "params": params}))
    spec = {
        "steps": [{"method": "structured_pruning", "pruning_ratio": ratio}],
        "evaluation": {"latency": {"batch_sizes": batch_sizes, "threads": 1}},
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    out = folder / name
    command = [sys.executable, "-m", "engine", "run", folder / "spec.json", "--model", model, "--out", out]
    done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: the job failed.\n{done.stderr[-2000:]}")
    report = json.loads((out / "report.json").read_text())
    before, after = report["baseline"], report["result"]
    rows = []
    for timed in report["comparison"]["latencies"]:
        rows.append(
            {
                "network": name,
                "params": params,
                "batch_size": timed["batch_size"],
                "latency_ratio": 1 / timed["speedup"],
                "latency_ratio_low": 1 / timed["speedup_high"],
                "latency_ratio_high": 1 / timed["speedup_low"],
                "macs_ratio": after["macs_count"] / before["macs_count"],
                "params_ratio": after["params_count"] / before["params_count"],
                "file_ratio": after["file_bytes"] / before["file_bytes"],
            }
        )
    return rows


def main() -> int:
    """Measure, print, write; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", choices=[[], *NETWORKS], help="default: all")
    parser.add_argument("--ratio", type=float, default=0.5, help="share of the channels that goes")
    parser.add_argument("--limit", type=float, default=0.8, help="the latency that may be left, as a share of the original's")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="pruned-latency-") as folder:
        for name in options.networks or NETWORKS:
            rows += measure(name, NETWORKS[name], Path(folder), ratio=options.ratio, batch_sizes=options.batch_sizes)
            for row in rows[-len(options.batch_sizes) :]:
                row["passed"] = row["latency_ratio"] < options.limit
                print(
                    f"{'pass' if row['passed'] else 'FAIL'}  {name:14} batch {row['batch_size']:3}: latency ×{row['latency_ratio']:.3f} "
                    f"({row['latency_ratio_low']:.3f}–{row['latency_ratio_high']:.3f}), MACs ×{row['macs_ratio']:.3f}, "
                    f"parameters ×{row['params_ratio']:.3f}",
                    flush=True,
                )
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
