"""T4: what pruned networks are worth against the same architecture trained from scratch (Liu et al., 2019)."""

from __future__ import annotations

from benchmarks.claims import convnet
from benchmarks.claims.bench import Bench
from benchmarks.claims.claim import Check, Claim, Figures, difference, one

EPOCHS = 5
TRAINING = {
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "weight_decay": 1e-4,
    "schedule": "multistep",
    "batch_size": 64,
    "epochs": EPOCHS,
}
SHORT_TUNING = {"optimizer": "sgd", "learning_rate": 1e-3, "weight_decay": 1e-4, "schedule": "constant", "batch_size": 64, "epochs": 2}


def scratch(bench: Bench, seed: int) -> Figures:
    """Percent right of the tuned network and of each baseline, and how far Scratch-B's length is from its definition."""
    steps = [
        {"method": "train", "initialization": "kaiming_normal", **TRAINING},
        {
            "method": "structured_pruning",
            "importance": "magnitude_l1",
            "pruning_ratio": 0.5,
            "finetune": SHORT_TUNING,
            "baselines": ["scratch_e", "scratch_b", "random"],
            "training": TRAINING,
        },
    ]
    done = bench.run("T4", steps, seed=seed, model=convnet.write(bench.folder / "convnet.onnx"), size=14).step(1)
    rows = {row["baseline"]: row for row in done["report"]["baselines"]["rows"]}
    ratio = done["report"]["before"]["macs_count"] / done["report"]["after"]["macs_count"]
    return {
        "tuned": 100 * done["report"]["stages"][-1]["test.top1"],
        **{name: 100 * row["test.top1"] for name, row in rows.items()},
        "length_error": abs(rows["scratch_b"]["epochs"] - int(EPOCHS * ratio)) + abs(rows["scratch_e"]["epochs"] - EPOCHS),
    }


CLAIMS = (
    Claim(
        "T4",
        scratch,
        (
            Check(
                "Scratch-B over the network tuned for 2 epochs at 1e-3, half of the filters by Σ|w| (points)",
                "+0.1 to +0.4 on CIFAR-10",
                difference("scratch_b", "tuned"),
                0.0,
            ),
            Check("Scratch-B over Scratch-E (points)", "+0.2 to +0.5 on CIFAR-10", difference("scratch_b", "scratch_e"), -0.3),
            Check("filters by Σ|w| over random ones after the same tuning (points)", "better", difference("tuned", "random"), 2.0),
            Check(
                "epochs of Scratch-B and Scratch-E off int(epochs · MACs ratio) and epochs (count)",
                "by definition",
                one("length_error"),
                0,
                at_most=True,
                every_seed=True,
            ),
        ),
    ),
)
