"""Baselines are fair: the same architecture, the budget that their name promises, and nothing of them in the result."""

import math

import pytest
from pydantic import ValidationError

from engine.contract.params import Finetune
from engine.methods.pruning.spec import StructuredPruning
from engine.methods.pruning.structure import baselines
from engine.methods.pruning.structure.baselines import lengthened, spent
from engine.methods.pruning.structured_pruning import apply
from engine.training.batches import fingerprint

ALL = ("scratch_e", "scratch_b", "random")


def params(**changes):
    return StructuredPruning(
        **({"baselines": ALL, "training": {"epochs": 3, "batch_size": 50}, "finetune": {"epochs": 1, "batch_size": 50}} | changes)
    )


@pytest.fixture
def trained(monkeypatch):
    """Every baseline's module before its training, its training, and the operations that are charged for it."""
    calls = []
    original = baselines._train

    def spy(module, training, macs, context):
        widths = [tuple(p.shape) for p in module.parameters()]
        calls.append((widths, fingerprint(module), training, macs))
        return original(module, training, macs, context)

    monkeypatch.setattr(baselines, "_train", spy)
    return calls


def test_scratch_b_trains_as_much_longer_as_the_network_is_cheaper(world, trained_cnn, trained):
    setting = world(trained_cnn, train=200)
    result = apply(setting.network, params(), setting.context).module
    report = setting.context.reported
    ratio = report["before"]["macs_count"] / report["after"]["macs_count"]
    rows = {row["baseline"]: row for row in report["baselines"]["rows"]}
    assert report["baselines"]["macs_ratio"] == pytest.approx(ratio)
    assert ratio > 2
    assert rows["scratch_e"]["epochs"] == 3
    assert rows["scratch_b"]["epochs"] == int(3 * ratio)
    assert rows["random"]["epochs"] == 1
    assert rows["scratch_e"]["training_macs_count"] == 3 * report["after"]["macs_count"] * 3 * 200
    large = spent(params().training, 200, report["before"]["macs_count"])["training_macs_count"]
    assert large * (1 - 1 / rows["scratch_b"]["epochs"]) <= rows["scratch_b"]["training_macs_count"] <= large
    assert all(0 <= row["test.top1"] <= 1 for row in rows.values())
    shapes = [tuple(p.shape) for p in result.parameters()]
    assert [call[0] for call in trained] == [shapes] * 3
    assert len({call[1] for call in trained}) == 3, "three different starts"


def test_random_channels_follow_every_round_of_the_pruning(world, trained_cnn, trained):
    setting = world(trained_cnn)
    chosen = params(baselines=("random",), training=None, iterations=2, scope="global", importance="magnitude_l1")
    result = apply(setting.network, chosen, setting.context).module
    assert [call[0] for call in trained][-1] == [tuple(p.shape) for p in result.parameters()]
    assert len(trained) == 2
    assert setting.context.reported["baselines"]["rows"][0]["epochs"] == 2


def test_baselines_leave_the_result_as_it_is_without_them(world, trained_cnn):
    found = []
    for chosen in (params(), params(baselines=(), training=None)):
        setting = world(trained_cnn)
        found.append(fingerprint(apply(setting.network, chosen, setting.context).module))
        assert len(setting.context.reported["training"]) == 1
    assert found[0] == found[1]


def test_a_longer_training_keeps_its_recipe():
    recipe = Finetune(iterations=160, schedule="multistep", milestones=(0.5, 0.75), learning_rate=0.1)
    longer = lengthened(recipe, 3.81)
    assert longer.iterations == 609
    assert longer.model_copy(update={"iterations": 160}) == recipe
    assert spent(Finetune(epochs=2, batch_size=64), 100, 10)["iterations"] == 2 * math.ceil(100 / 64)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"training": None}, "training"),
        ({"baselines": ("random",)}, "training"),
        ({"baselines": ("random", "random"), "training": None}, "once"),
    ],
)
def test_contradictions_are_refused(changes, word):
    with pytest.raises(ValidationError, match=word):
        params(**changes)
    assert params().needs.labels
