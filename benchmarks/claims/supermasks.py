"""T3: learned masks over weights that are never trained (Zhou et al., 2019, section 5)."""

from __future__ import annotations

from benchmarks.claims import lenet
from benchmarks.claims.bench import Bench
from benchmarks.claims.claim import Check, Claim, Figures, difference, one


def supermask(bench: Bench, seed: int) -> Figures:
    """Percent right as a mean over drawn masks, with and without dynamic weight rescaling."""
    figures = {"changed": 0.0}
    length = {"epochs": 100} if bench.full else {"iterations": 1200}
    for name, dwr in (("plain", False), ("rescaled", True)):
        step = {"method": "supermask", "initialization": "random", "dwr": dwr, "learning_rate": 100, "batch_size": 100, **length}
        model = lenet.write(bench.folder / "lenet.json")
        done = bench.run(f"T3-{name}", [step], seed=seed, model=model).step()
        figures[name] = 100 * done["report"]["sampled"]["test.top1"]["mean"]
        sums = done["report"]["frozen_weights_sha256"]
        figures["changed"] += sums["before"] != sums["after"]
    return figures


CLAIMS = (
    Claim(
        "T3",
        supermask,
        (
            Check("learned Bernoulli mask without rescaling (percent right)", "95.3 on MNIST", one("plain"), 85),
            Check("dynamic weight rescaling over none (points)", "+2.5 on MNIST (95.3 to 97.8)", difference("rescaled", "plain"), 1.0),
            Check("weights whose sha256 training changed (count)", "by definition", one("changed"), 0, at_most=True, every_seed=True),
        ),
    ),
)
