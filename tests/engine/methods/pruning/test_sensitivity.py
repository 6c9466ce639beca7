"""Sensitivity curves prune one layer alone, leave the network as it is, and drive `pruning_ratio: auto`."""

import copy

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from engine.contract.metric import catalogue
from engine.methods.pruning.sensitivity import apply
from engine.methods.pruning.spec import Sensitivity, StructuredPruning
from engine.methods.pruning.structure.curves import Point, bearable
from engine.methods.pruning.structured_pruning import apply as prune
from engine.training.batches import fingerprint


def curves(setting):
    return setting.context.reported["sensitivity"]["curves"]


def accuracy(context, module):
    _, validation = context.held_out()
    return context.score(module, validation)


def test_every_point_is_the_network_with_that_layer_alone_pruned(world, trained_cnn):
    setting = world(trained_cnn)
    before = fingerprint(trained_cnn)
    result = apply(setting.network, Sensitivity(ratios=(0.25, 0.5)), setting.context)
    assert fingerprint(result.module) == fingerprint(trained_cnn) == before
    assert set(curves(setting)) == {"0", "4"}
    for name, width in (("0", 8), ("4", 16)):
        for point, pruned in zip(curves(setting)[name], (width // 4, width // 2), strict=True):
            one = StructuredPruning(pruning_ratio=point["ratio"], include=(name,))
            cut = prune(setting.network, one, setting.context).module
            expected = accuracy(setting.context, cut)
            assert point["pruned_count"] == pruned
            assert point["top1"] == pytest.approx(expected["top1"])
            assert point["cross_entropy"] == pytest.approx(expected["cross_entropy"], abs=1e-5)
    unpruned = setting.context.reported["sensitivity"]["unpruned"]
    assert unpruned == pytest.approx(accuracy(setting.context, trained_cnn))


def test_single_weights_go_by_magnitude(world, trained_mlp):
    setting = world(trained_mlp)
    apply(setting.network, Sensitivity(unit="weights", ratios=(0.5,), include=("3",)), setting.context)
    (point,) = curves(setting)["3"]
    pruned = copy.deepcopy(trained_mlp)
    with torch.no_grad():
        weight = pruned[3].weight
        weight[weight.abs() <= weight.abs().flatten().sort().values[weight.numel() // 2 - 1]] = 0
    assert point["pruned_count"] == weight.numel() // 2
    assert point["cross_entropy"] == pytest.approx(accuracy(setting.context, pruned)["cross_entropy"], abs=1e-6)


def test_every_shape_of_network_stays_as_it_is(world, shaped):
    setting = world(shaped, train=60)
    before = fingerprint(shaped)
    assert apply(setting.network, Sensitivity(ratios=(0.5,), examples_count=20), setting.context) is setting.network
    assert fingerprint(shaped) == before
    assert curves(setting)


def test_test_examples_decide_nothing(world, trained_cnn):
    setting = world(trained_cnn)
    apply(setting.network, Sensitivity(ratios=(0.5,)), setting.context)
    assert setting.data.splits["test"].reads == 0


def test_bearable_stops_at_the_first_drop():
    curve = [Point(ratio, 0, {"top1": top1, "rmse": 1 - top1}) for ratio, top1 in ((0.3, 0.90), (0.1, 0.95), (0.2, 0.93), (0.4, 0.95))]
    for name in ("top1", "rmse"):  # larger is better, smaller is better
        for whole, max_drop, ratio in ((0.95, 0.02, 0.2), (0.95, 0.0, 0.1), (0.99, 0.01, 0.0), (0.95, 1.0, 0.4)):
            assert bearable(curve, {"top1": whole, "rmse": 1 - whole}, catalogue()[name], max_drop) == ratio


def test_auto_takes_from_every_layer_what_its_curve_allows(world):
    """The first layer has four dead filters, which cost nothing; every neuron of the second is needed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5), nn.ReLU(), nn.Linear(5, 5))
    setting = world(module)
    setting.context.train(module, StructuredPruning(finetune={"epochs": 6, "learning_rate": 3e-3}).finetune)
    with torch.no_grad():
        module[0].weight[::2], module[0].bias[::2] = 0, 0
        module[3].weight.abs_()
        module[3].bias.fill_(1)
        module[5].weight.copy_(torch.eye(5))
        for klass in range(5):
            module[3].weight[klass] *= 1 + klass / 10
    setting = world(module)
    result = prune(setting.network, StructuredPruning(pruning_ratio="auto", max_drop=0.0, include=("0",)), setting.context).module
    shares = setting.context.reported["pruning_ratios"]
    assert shares["0"] >= 0.5
    assert result[0].out_channels == 8 - sum((i + 0.5) / 8 < shares["0"] for i in range(8))
    stages = setting.context.reported["stages"]
    assert set(setting.context.reported["sensitivity"]["curves"]) == {"0"}
    shown = setting.context.sensitivities["0"]
    half = next(point for point in setting.context.reported["sensitivity"]["curves"]["0"] if point["ratio"] == 0.5)
    assert (shown.tried, shown.value) == ("50 % of its channels removed", half[shown.key.removeprefix("validation.")])
    assert stages


def test_auto_is_bounded_by_max_drop_for_each_layer_alone(world, trained_cnn):
    kept = []
    for max_drop in (0.02, 0.3):
        setting = world(trained_cnn)
        params = StructuredPruning(pruning_ratio="auto", max_drop=max_drop)
        result = prune(setting.network, params, setting.context).module
        report = setting.context.reported
        top1 = report["sensitivity"]["unpruned"]["top1"]
        for name, share in report["pruning_ratios"].items():
            points = {point["ratio"]: point["top1"] for point in report["sensitivity"]["curves"][name]}
            assert share == 0 or top1 - points[share] <= max_drop + 1e-9
        kept.append(sum(p.numel() for p in result.parameters()))
    assert kept[1] < kept[0]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"pruning_ratio": "auto", "scope": "global"}, "scope"),
        ({"pruning_ratio": 0.5, "max_drop": 0.1}, "auto"),
        ({"pruning_ratio": 50}, "did you mean 0.5"),
        ({"pruning_ratio": "automatic"}, "number"),
    ],
)
def test_contradictions_are_refused_with_one_problem(changes, word):
    with pytest.raises(ValidationError, match=word) as caught:
        StructuredPruning(**changes)
    assert caught.value.error_count() == 1


def test_auto_survives_serialization_and_needs_labels():
    params = StructuredPruning(pruning_ratio="auto")
    assert StructuredPruning.model_validate_json(params.model_dump_json()) == params
    assert params.needs.labels
    assert {"const": "auto", "type": "string"} in StructuredPruning.model_json_schema()["properties"]["pruning_ratio"]["anyOf"]
    with pytest.raises(ValidationError, match="weights"):
        Sensitivity(unit="weights", importance="fpgm")
