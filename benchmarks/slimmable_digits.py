"""The demo's network at four widths in one file, beside structured pruning to each of them: `python -m benchmarks.slimmable_digits --json FILE`.

All jobs train for the same number of epochs, by the same optimizer and from the same weights. Exit status 0 only if the full width loses at most
0.3 points, and each width is within 1 point of the network that was pruned to it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[1] / "examples"
WIDTHS = (0.25, 0.5, 0.75, 1.0)
MOST_LOST, MOST_BEHIND = 0.3, 1.0
"""Points of accuracy."""


def run(folder: Path, name: str, step: dict[str, Any], seed: int) -> dict[str, Any]:
    """The report of a job of one step. Raises SystemExit with the job's last words where it fails."""
    spec = folder / f"{name}.json"
    spec.write_text(json.dumps({"steps": [step], "seed": seed, "evaluation": {"latency": {"repeats": 100}}}))
    files = ["--model", EXAMPLES / "digits.onnx", "--data", EXAMPLES / "digits.npz", "--data-metadata", EXAMPLES / "digits.metadata.json"]
    command = [sys.executable, "-m", "engine", "run", spec, *files, "--out", folder / name]
    done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: the job failed.\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads((folder / name / "report.json").read_text())
    return found


def row(report: dict[str, Any], setting: int = 0) -> dict[str, float]:
    """What a setting came to."""
    item = report["settings"][setting]
    return {
        "points": 100 * item["figures"]["metrics"]["test.top1"],
        "macs_count": item["figures"]["macs_count"],
        "params_count": item["figures"]["params_count"],
        "latency_ratio": 1 / item["comparison"]["latencies"][0]["speedup"],
    }


def main() -> int:
    """Run the jobs, print, write; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    training = {"epochs": options.epochs, "optimizer": "adam", "learning_rate": 1e-3, "batch_size": 64, "schedule": "cosine"}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        slimmed = run(folder, "slimmable", {"method": "slimmable", "widths": WIDTHS, **training}, options.seed)
        baseline = 100 * slimmed["baseline"]["metrics"]["test.top1"]
        rows = []
        for place, item in enumerate(slimmed["settings"]):
            width = item["setting"]["values"]["width"]
            ours = {"width": width, **row(slimmed, place)}
            if width < 1:
                step = {"method": "structured_pruning", "pruning_ratio": 1 - width, "round_to": 1, "finetune": training}
                ours["pruned"] = row(run(folder, f"pruned-{width:g}", step, options.seed))
            rows.append(ours)
    print(f"{'width':>6} {'slimmable':>10} {'pruned':>8} {'MACs':>10} {'latency':>8}   before: {baseline:.2f} %")
    for item in rows:
        pruned = f"{item['pruned']['points']:8.2f}" if "pruned" in item else " " * 8
        print(f"{item['width']:6g} {item['points']:10.2f} {pruned} {item['macs_count']:10.0f} {item['latency_ratio']:8.2f}")
    kept = max(item["points"] for item in rows if item["width"] == 1) >= baseline - MOST_LOST
    near = all(item["points"] >= item["pruned"]["points"] - MOST_BEHIND for item in rows if "pruned" in item)
    print(f"width 1 within {MOST_LOST} points: {kept}; every width within {MOST_BEHIND} points of pruning: {near}")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(
        json.dumps({"baseline": baseline, "epochs": options.epochs, "seed": options.seed, "rows": rows}, indent=1) + "\n"
    )
    return 0 if kept and near else 1


if __name__ == "__main__":
    sys.exit(main())
