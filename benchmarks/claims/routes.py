"""T13: residual blocks that are skipped input by input (Wang et al., SkipNet, 2018)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.claims.bench import Bench, Outcome
from benchmarks.claims.claim import Check, Claim, Figures, difference, one

SIZE = 14
MODEL = {"name": "resnet20", "params": {"image_size": SIZE, "in_channels": 1, "width": 32}}
BATCH = 64


def trained(bench: Bench, seed: int) -> Outcome:
    """The job: its first setting has routes, its second one runs every block."""
    model = bench.folder / "resnet20.json"
    model.write_text(json.dumps(MODEL))
    supervised, reinforced = ({"epochs": 20}, {"epochs": 10}) if bench.full else ({"iterations": 200}, {"iterations": 160})
    step: dict[str, Any] = {
        "method": "skip_routing",
        "alphas": [1.5],
        "supervised": {"batch_size": BATCH, "learning_rate": 3e-3, **supervised},
        "reinforcement": {"batch_size": BATCH, "learning_rate": 1e-2, "schedule": "constant", **reinforced},
        "controls": ["random", "shuffled", "full"],
    }
    return bench.run("T13", [step], seed=seed, model=model, size=SIZE, evaluation={"latency": {"repeats": 200}})


def routing(bench: Bench, seed: int) -> Figures:
    """Percent right with learned routes and with random ones at the same rate, and what is computed and how long it takes."""
    done = trained(bench, seed)
    routed, report = done.report["settings"][0], done.step()["report"]
    controls = {name.split(" ")[0]: 100 * item["test.top1"] for name, item in report["controls"].items()}
    return {
        "learned": 100 * routed["figures"]["metrics"]["test.top1"],
        **controls,
        "compute": routed["figures"]["macs_count"] / done.report["baseline"]["macs_count"],
        "latency": 1 / routed["comparison"]["latencies"][0]["speedup"],
        "difference": _difference(done.folder / "model.onnx", bench.digits(seed, size=SIZE)),
    }


def _difference(file: Path, digits: Path) -> float:
    """Largest difference between outputs in batches, where every block runs for some examples, and one by one, where it really does not."""
    session = ort.InferenceSession(file)
    name = session.get_inputs()[0].name
    images = (np.load(digits)["x_test"][:BATCH, None] / 255).astype(np.float32)
    (together,) = session.run(None, {name: images})
    alone = np.concatenate([session.run(None, {name: images[place : place + 1]})[0] for place in range(BATCH)])
    return float(np.abs(together - alone).max())


CLAIMS = (
    Claim(
        "T13",
        routing,
        (
            Check(
                "multiply-accumulates with routes, over the full network's",
                "0.50 for ResNet-110 on CIFAR-10",
                one("compute"),
                0.6,
                at_most=True,
            ),
            Check(
                "learned routes over blocks skipped at random at the same rate (points)", "well above", difference("learned", "random"), 3
            ),
            Check("learned routes over every example with another's (points)", "not in the paper", difference("learned", "shuffled"), 0.5),
            Check(
                "latency of the file with routes on test digits, over the full network's", "not measured", one("latency"), 0.8, at_most=True
            ),
            Check(
                "outputs in batches against one by one: largest difference",
                "by definition",
                one("difference"),
                1e-4,
                at_most=True,
                every_seed=True,
            ),
        ),
        alone=True,
    ),
)
