"""T11: a multi-scale dense network that stops early keeps its accuracy at a third of the compute, and stops at the right examples.

The network has four classifiers on two scales (growth 1-2, bottlenecks 1-2) and sees digits of 14×14 pixels. Thresholds come from examples that
nothing was trained on; the test digits are asked once, by the job, for the figures.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.claims.bench import Bench, Outcome
from benchmarks.claims.claim import Check, Claim, Figures, difference, one

SIZE = 14
BUDGET = 0.3
"""Below the bound of the claim, 0.35, by what a realised mean may miss its budget."""
NETWORK = {
    "name": "msdnet",
    "params": {
        "in_channels": 1, "image_size": SIZE, "num_classes": 10, "classifiers": 4, "base": 1, "step": 2, "channels": 8, "growth": 8,
        "scale_factors": [1, 2], "bottleneck_factors": [1, 2], "classifier_channels": 32,
    },
}  # fmt: skip
QUICK_ITERATIONS, FULL_EPOCHS = 350, 30
"""The margins were set with so many iterations."""
LATENCY = {"latency": {"batch_sizes": [1], "repeats": 300}}


def trained(bench: Bench, seed: int, *, every_exit: bool = False) -> Outcome:
    """The job: its first setting stops at the budget. With `every_exit`, its last one is the whole network and no other exit."""
    length: dict[str, Any] = {"epochs": FULL_EPOCHS} if bench.full else {"iterations": QUICK_ITERATIONS}
    step = {
        "method": "early_exit", "budgets": [BUDGET, 0.2, 0.5], "controls": ["random_exits"], "anytime": every_exit, "optimizer": "sgd", "learning_rate": 0.1,
        "weight_decay": 1e-4, "batch_size": 64, **length,
    }  # fmt: skip
    model = _described(bench.folder / f"msdnet-{seed}.json", seed)
    return bench.run("T11", [step], seed=seed, model=model, size=SIZE, evaluation=LATENCY)


def exits(bench: Bench, seed: int) -> Figures:
    """Accuracies and costs of one network, from the report of one job."""
    outcome = trained(bench, seed)
    report = outcome.step()["report"]
    whole, budget = report["whole_macs_count"], report["budgets"][0]
    measured = outcome.report["settings"][0]
    by_exit = [item["evaluated.top1"] for item in report["exits"]]
    return {
        "full": 100 * by_exit[-1],
        "accuracy": 100 * measured["figures"]["metrics"]["test.top1"],
        "random": 100 * budget["random_exits"]["top1"],
        "cost": measured["figures"]["macs_count"] / whole,
        "off": abs(measured["figures"]["macs_count"] / (BUDGET * whole) - 1),
        "fall": 100 * max(earlier - later for earlier, later in pairwise(by_exit)),
        "latency": 1 / measured["comparison"]["latencies"][0]["speedup"],
    }


def _described(path: Path, seed: int) -> Path:
    path.write_text(json.dumps({**NETWORK, "seed": seed}))
    return path


CLAIMS = (
    Claim(
        "T11",
        exits,
        (
            Check(
                "mean multiply-accumulates of the network that stops, over those of the whole one",
                "0.1 on CIFAR-100",
                one("cost"),
                0.35,
                at_most=True,
            ),
            Check("accuracy there less that of the last classifier (points)", "about 0", difference("accuracy", "full"), -0.5),
            Check("accuracy there over as many random examples at each exit (points)", "–", difference("accuracy", "random"), 0.5),
            Check("realised mean off the budget (share)", "–", one("off"), 0.1, at_most=True),
            Check("most that a later classifier is worse than the one before it (points)", "≤ 0", one("fall"), 0.5, at_most=True),
            Check(
                "latency of its file at batch 1 on real inputs, over that of the whole network's", "–", one("latency"), 0.6, at_most=True
            ),
        ),
        alone=True,
    ),
)
