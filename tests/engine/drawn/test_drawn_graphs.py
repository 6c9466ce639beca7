"""Whatever a small network is made of, the engine computes what ONNX Runtime does with the original, or refuses with a reason.

50 graphs, always the same ones, or as many new ones as `FUZZ_GRAPHS` says (`make fuzz-graphs`). A failure prints the seed and the size
that draw its graph again: `graphs.draw(Random(seed), size)`.
"""

import os
import tempfile
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from engine.methods.pruning.spec import StructuredPruning
from engine.methods.quantization import dynamic_quantization, static_quantization
from engine.methods.quantization.spec import DynamicQuantization, StaticQuantization
from tests.engine.drawn import checks, graphs
from tests.engine.drawn.sketch import Unfit

ASKED = int(os.environ.get("FUZZ_GRAPHS", "0"))
EVERY = 1 if ASKED else 2
"""Of how many graphs one is written anew, which takes a second."""


COMMON = {
    "max_examples": ASKED or 50,
    "derandomize": not ASKED,
    "database": None,
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
}


def drawn_network(seed: int, size: int, tally: Counter[str], choices: graphs.Choices | None = None) -> graphs.Drawn | None:
    """The network of a seed; a few draw none that keeps its examples apart."""
    note(f"draw(Random({seed}), {size})")
    try:
        drawn = graphs.draw(Random(seed), size, choices=choices)
    except Unfit:
        drawn = None
    tally["drawn" if drawn is not None else "mixed"] += 1
    return drawn


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(300 + 20 * ASKED)
def test_drawn_networks_compute_the_same_in_every_form() -> None:
    tally: Counter[str] = Counter()

    @settings(**COMMON)
    @given(st.integers(0, 2**24), st.integers(3, 12))
    def check(seed: int, size: int) -> None:
        drawn = drawn_network(seed, size, tally)
        if drawn is None:
            return
        with tempfile.TemporaryDirectory() as folder:
            bench = checks.Bench.of(drawn, Path(folder))
            checks.figures_are_those_of_the_file(bench.path)
            module = checks.module_computes_the_same(bench)
            tally["imported"] += module is not None
            if module is not None and tally["imported"] % EVERY == 0:
                written = checks.exported(bench, module)
                checks.file_computes_the_same(bench, written)
                checks.figures_are_those_of_the_file(written)
                tally["written"] += 1
            for apply, params in ((static_quantization.apply, StaticQuantization()), (dynamic_quantization.apply, DynamicQuantization())):
                tally["quantized"] += checks.quantized_computes_nearly_the_same(bench, apply, params) is not None

    check()
    assert tally["drawn"] > 0.8 * (tally["drawn"] + tally["mixed"])
    assert tally["imported"] > 0.7 * tally["drawn"]
    assert tally["written"] >= tally["imported"] // EVERY > 0
    assert tally["quantized"] > 1.2 * tally["drawn"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(300 + 20 * ASKED)
def test_silent_channels_can_be_cut_out_of_drawn_networks() -> None:
    tally: Counter[str] = Counter()

    @settings(**COMMON)
    @given(st.integers(0, 2**24), st.integers(3, 12))
    def check(seed: int, size: int) -> None:
        drawn = drawn_network(seed, size, tally, graphs.KEEPING_ZERO)
        if drawn is None:
            return
        with tempfile.TemporaryDirectory() as folder:
            bench = checks.Bench.of(drawn, Path(folder))
            tally["pruned"] += checks.silent_channels_are_not_missed(bench, StructuredPruning(pruning_ratio=0.3)) is not None

    check()
    assert tally["drawn"] > 0.8 * (tally["drawn"] + tally["mixed"])
    assert tally["pruned"] > 0.25 * tally["drawn"]
