"""Widths, early exits and skipped blocks on all of MNIST, and on digits of another source that nothing was trained, stopped or calibrated on.

    python -m benchmarks.shifted --data mnist.npz --shifted digits20.npz [--seed 0] [--keep FOLDER] --json FILE

`--data` has 60,000 and 10,000 digits of 28×28; `--shifted` has `x_test` and `y_test` of 20×20, which are padded to 28×28. The networks are those of
the claims T11, T12 and T13 with the lengths of their quick mode, on all training digits. Every published setting answers both test sets in ONNX
Runtime. Prints a Markdown table.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from benchmarks.claims import exits, routes, slimming
from benchmarks.claims.bench import Bench, Outcome, parser_of, shrunk
from modelpress.runtime import load
from modelpress.runtime.subnets import open_settings

TOGETHER = 250
Digits = tuple[NDArray[np.float32], NDArray[np.int64]]


def digits(file: Path, size: int) -> Digits:
    """Test digits as the networks take them, padded to 28×28 and shrunk, and their labels."""
    with np.load(file) as stored:
        images, labels = stored["x_test"], stored["y_test"]
    border = (28 - images.shape[1]) // 2
    padded = np.pad(images, ((0, 0), (border, border), (border, border)))
    return (shrunk(padded, size)[:, None] / 255).astype(np.float32), labels.astype(np.int64)


def graphs(done: Outcome) -> Iterator[tuple[dict[str, Any], Path | bytes]]:
    """Every setting that was measured, and the network that runs it."""
    files = {name: done.folder / file["filename"] for file in done.report["artifacts"] for name in file.get("settings") or ()}
    for item in done.report["settings"]:
        file = files[item["setting"]["name"]]
        together = [name for name in files if files[name] == file]
        if len(together) > 1:
            packed = open_settings(file)
            yield item, b"".join(packed.cut(packed.setting(item["setting"]["name"])))
        else:
            yield item, file


def right(graph: Path | bytes, given: Digits) -> float:
    """Percent of the digits that a network recognizes."""
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    name, (images, labels) = session.get_inputs()[0].name, given
    pieces = (images[start : start + TOGETHER] for start in range(0, len(images), TOGETHER))
    return 100 * float((np.concatenate([session.run(None, {name: piece})[0].argmax(1) for piece in pieces]) == labels).mean())


def compute(done: Outcome, budget: str, given: Digits) -> float | None:
    """Mean multiply-accumulates of one example where a network with exits stops by itself; None for other settings."""
    manifest = done.folder / "step0-exits.json"
    if not manifest.exists() or not budget.startswith("budget "):
        return None
    network = load(manifest, budget=float(budget.removeprefix("budget ")))
    return float(network.run({network.inputs[0]: given[0]}, batch_size=TOGETHER).macs_count)


def measured(done: Outcome, sets: dict[str, Digits]) -> list[dict[str, Any]]:
    """A row for each setting of a job."""
    whole = done.report["baseline"]["macs_count"]
    rows = []
    for item, graph in graphs(done):
        name = item["setting"]["name"]
        row = {"method": done.step()["method"], "setting": name, "compute": item["figures"]["macs_count"] / whole}
        for key, given in sets.items():
            macs = compute(done, name, given)
            row |= {f"{key} percent": right(graph, given), f"{key} compute": row["compute"] if macs is None else macs / whole}
        rows.append(row)
    return rows


def main() -> None:
    """Train, score, print, write."""
    parser = parser_of("python -m benchmarks.shifted", __doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--shifted", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as made:
        bench = Bench((options.keep or Path(made)).absolute(), options.data.absolute(), full=False, all_digits=True)
        bench.folder.mkdir(parents=True, exist_ok=True)
        for make, size in ((slimming.trained, slimming.SIZE), (exits.trained, exits.SIZE), (routes.trained, routes.SIZE)):
            sets = {"test": digits(options.data, size), "shifted": digits(options.shifted, size)}
            rows += measured(make(bench, options.seed), sets)
            options.json.write_text(json.dumps({"seed": options.seed, "rows": rows}, indent=1) + "\n")
    print("| method | setting | compute | test (%) | shifted (%) |\n|---|---|---|---|---|")
    for row in rows:
        share = f"{row['test compute']:.2f}" + (
            "" if row["shifted compute"] == row["test compute"] else f"; {row['shifted compute']:.2f} shifted"
        )
        print(f"| `{row['method']}` | {row['setting']} | {share} | {row['test percent']:.2f} | {row['shifted percent']:.1f} |")


if __name__ == "__main__":
    main()
