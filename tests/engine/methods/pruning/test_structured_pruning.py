"""Structured pruning meets its target, keeps what must stay, and says what it did."""

import copy

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from engine.contract.errors import EngineError
from engine.formats.onnx.networks import ModuleNetwork
from engine.methods.pruning.spec import StructuredPruning
from engine.methods.pruning.structured_pruning import apply
from tests.clock import quickest
from tests.engine.structure.conftest import Tied


def widths(module):
    return {
        name: getattr(m, "out_channels", getattr(m, "out_features", None)) for name, m in module.named_modules() if hasattr(m, "weight")
    }


def warnings(setting):
    return {event.code: event for event in setting.of("warning")}


def params_count(module):
    return sum(p.numel() for p in module.parameters())


def test_half_of_every_layers_channels_go_but_the_output_stays(world, trained_cnn):
    setting = world(trained_cnn)
    result = apply(setting.network, StructuredPruning(pruning_ratio=0.5), setting.context).module
    assert (result[0].out_channels, result[1].num_features, result[4].out_channels) == (4, 4, 8)
    assert (result[7].in_features, result[7].out_features) == (128, 5)
    assert result(torch.randn(3, 1, 8, 8)).shape == (3, 5)
    assert setting.context.reported["layers"]["0"] == {"channels_before": 8, "channels_after": 4}
    assert setting.context.metrics["params_count"] == params_count(result)
    assert params_count(trained_cnn) > params_count(result), "the given network is left alone"


def test_the_channels_with_the_smallest_filters_go(world, trained_cnn):
    setting = world(trained_cnn)
    result = apply(setting.network, StructuredPruning(pruning_ratio=0.5, importance="magnitude_l1", include=("0",)), setting.context).module
    norms = trained_cnn[0].weight.detach().abs().sum((1, 2, 3))
    kept = norms.argsort(descending=True)[:4].sort().values
    assert torch.equal(result[0].weight, trained_cnn[0].weight[kept])
    assert torch.equal(result[1].running_mean, trained_cnn[1].running_mean[kept])
    assert torch.equal(result[4].weight, trained_cnn[4].weight[:, kept])


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("figure", ["params_ratio", "macs_ratio"])
@pytest.mark.parametrize("iterations", [1, 3])
def test_budgets_are_met_closely_and_never_exceeded(world, network_of, scope, figure, iterations):
    module = network_of("residual")
    setting = world(module)
    apply(setting.network, StructuredPruning(budget={figure: 0.4}, scope=scope, iterations=iterations), setting.context)
    key = figure.replace("ratio", "count")
    left = setting.context.reported["after"][key] / setting.context.reported["before"][key]
    assert 0.33 < left <= 0.4
    assert "budget_missed" not in warnings(setting)


def test_a_budget_out_of_reach_leaves_one_channel_each_and_warns(world, trained_cnn):
    setting = world(trained_cnn)
    result = apply(setting.network, StructuredPruning(budget={"params_ratio": 0.001}), setting.context).module
    assert (result[0].out_channels, result[4].out_channels) == (1, 1)
    assert "budget_missed" in warnings(setting)


def test_a_ratio_that_would_empty_a_layer_keeps_one_channel_and_names_it(world, trained_cnn):
    setting = world(trained_cnn)
    result = apply(setting.network, StructuredPruning(pruning_ratio=0.99), setting.context).module
    assert (result[0].out_channels, result[4].out_channels) == (1, 1)
    assert set(warnings(setting)["pruning_limited"].details["layers"]) == {"0", "4"}


def test_iterations_end_where_one_shot_ends_and_measure_every_stage(world, trained_cnn):
    setting = world(trained_cnn)
    params = StructuredPruning(pruning_ratio=0.5, iterations=2, finetune={"iterations": 3})
    result = apply(setting.network, params, setting.context).module
    assert (result[0].out_channels, result[4].out_channels) == (4, 8)
    stages = setting.context.reported["stages"]
    assert [stage["stage"] for stage in stages] == ["before", "pruned 1/2", "tuned 1/2", "pruned 2/2", "tuned 2/2"]
    assert all("test.top1" in stage for stage in stages)
    fractions = [event.fraction for event in setting.of("progress")]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


def test_tuning_wins_accuracy_back(world, trained_cnn):
    setting = world(trained_cnn)
    apply(setting.network, StructuredPruning(pruning_ratio=0.75, finetune={"epochs": 6, "learning_rate": 5e-3}), setting.context)
    before, pruned, tuned = (stage["test.top1"] for stage in setting.context.reported["stages"])
    assert pruned < before
    assert tuned > pruned


@pytest.mark.parametrize("importance", StructuredPruning.model_fields["importance"].annotation.__args__)
def test_every_importance_works_and_depends_on_the_seed_alone(world, trained_cnn, importance):
    states = []
    for _ in range(2):
        setting = world(trained_cnn, train=40)
        result = apply(setting.network, StructuredPruning(pruning_ratio=0.5, importance=importance, scope="global"), setting.context)
        states.append(result.module.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert params_count(result.module) < params_count(trained_cnn)


def test_round_to_and_min_channels(world, network_of):
    setting = world(network_of("dense"))
    result = apply(setting.network, StructuredPruning(pruning_ratio=0.5, round_to=4, min_channels=5), setting.context).module
    assert (result.a.out_channels, result.b.out_channels, result.c.out_channels) == (8, 8, 8)
    assert set(warnings(setting)["pruning_limited"].details["layers"]) == {"a", "c"}


def test_ignored_layers_keep_everything_tied_to_them(world, network_of):
    setting = world(network_of("residual"))
    result = apply(setting.network, StructuredPruning(pruning_ratio=0.5, ignore=("stem.*",)), setting.context).module
    assert result.stem[0].out_channels == result.one[3].out_channels == 8
    assert result.one[0].out_channels == 4


def test_layer_types_and_globs_choose(world, network_of):
    setting = world(network_of("plain"))
    result = apply(setting.network, StructuredPruning(pruning_ratio=0.5, include=("Linear",)), setting.context).module
    assert (result[0].out_channels, result[4].out_channels, result[7].out_features) == (8, 12, 8)


def test_traced_modules_are_pruned_like_native_ones(world, shaped):
    results = []
    for module in (shaped, torch.fx.symbolic_trace(shaped)):
        setting = world(copy.deepcopy(module))
        results.append(apply(setting.network, StructuredPruning(pruning_ratio=0.5), setting.context).module)
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(*(result(x) for result in results))


def test_channels_that_cannot_be_cut_are_left_and_named(world):
    class Reshaped(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.body, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 6, 3), nn.Linear(6, 5)

        def forward(self, x):
            return self.head(self.body(self.stem(x).reshape(-1, 8, 8, 8)).mean((2, 3)))

    setting = world(Reshaped())
    result = apply(setting.network, StructuredPruning(pruning_ratio=0.5), setting.context).module
    assert (result.stem.out_channels, result.body.out_channels) == (8, 3)
    assert warnings(setting)["layers_not_removable"].details["layers"] == ["stem"]


def test_a_network_with_nothing_to_remove_is_refused(world):
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    setting = world(module)
    with pytest.raises(EngineError) as caught:
        apply(setting.network, StructuredPruning(), setting.context)
    assert caught.value.code == "pruning_impossible"


def test_a_ratio_below_one_channel_is_not_a_silent_success(world, trained_cnn):
    setting = world(trained_cnn)
    with pytest.raises(EngineError, match="Nothing was removed"):
        apply(setting.network, StructuredPruning(pruning_ratio=0.01), setting.context)


def test_no_dataset_is_needed_for_magnitudes(world, trained_cnn):
    setting = world(trained_cnn)
    setting.context.data = None
    result = apply(setting.network, StructuredPruning(pruning_ratio=0.5), setting.context).module
    assert result[0].out_channels == 4


def test_fewer_channels_are_really_faster(world):
    """T5: half of the channels take less than 0.8 of the time."""
    import time

    module = nn.Sequential(
        nn.Conv2d(1, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 48, 3, padding=1),
        nn.Flatten(), nn.Linear(48 * 64, 5),
    )  # fmt: skip
    setting = world(module)
    result = apply(setting.network, StructuredPruning(pruning_ratio=0.5), setting.context).module
    x = torch.randn(64, 1, 8, 8)

    def ratio() -> float:
        times: dict[int, list[float]] = {0: [], 1: []}
        with torch.no_grad():
            for _ in range(15):
                for index, candidate in enumerate((module, result)):
                    started = time.perf_counter()
                    candidate(x)
                    times[index].append(time.perf_counter() - started)
        return min(times[1]) / min(times[0])

    assert quickest(ratio, 0.8) < 0.8


def test_a_latency_budget_is_the_first_candidate_that_is_fast_enough(world, network_of, monkeypatch):
    """The clock is replaced by the count of parameters, so that the search has one right answer."""
    module = network_of("residual")
    timed = []

    class Clock:
        def __init__(self, original, inputs, context):
            self.whole = params_count(original)

        def latency_ratio(self, candidate):
            timed.append(params_count(candidate) / self.whole)
            return timed[-1]

    monkeypatch.setattr("engine.methods.pruning.structured_pruning.Stopwatch", Clock)
    setting = world(module)
    result = apply(setting.network, StructuredPruning(budget={"latency_ratio": 0.5}), setting.context).module
    reached = params_count(result) / params_count(module)
    assert reached == setting.context.metrics["latency_ratio"] <= 0.5 < min(ratio for ratio in timed if ratio > reached)
    assert len(timed) < 10, "every candidate costs an export and a measurement: the search is by halves"


def test_latency_is_that_of_the_exported_network_in_onnx_runtime(world):
    from engine.methods.channels.stopwatch import Stopwatch

    wide, narrow = (nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, 5)) for width in (60_000, 600))
    stopwatch = Stopwatch(wide, (torch.randn(2, 1, 8, 8),), world(wide).context)
    assert stopwatch.latency_ratio(narrow) < 0.3


def test_batch_normalization_scales_rank_only_what_has_them(world, trained_cnn, trained_mlp):
    setting = world(trained_cnn)
    result = apply(setting.network, StructuredPruning(pruning_ratio=0.5, importance="bn_scale"), setting.context).module
    kept = trained_cnn[1].weight.detach().abs().argsort(descending=True)[:4].sort().values
    assert torch.equal(result[1].weight, trained_cnn[1].weight[kept])
    assert result[4].out_channels == 16
    with pytest.raises(EngineError) as caught:
        apply(world(trained_mlp).network, StructuredPruning(importance="bn_scale"), world(trained_mlp).context)
    assert caught.value.code == "pruning_impossible"


def test_open_dimensions_are_given_a_size_that_runs(world):
    from engine.networks.network import Signature, TensorSpec

    module = nn.Sequential(
        nn.Conv2d(3, 8, 7, stride=4), nn.ReLU(), nn.Conv2d(8, 4, 7), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    setting = world(module)
    setting.context.data = None
    setting.context.baseline = ModuleNetwork(
        Signature((TensorSpec("x", (None, 3, None, None)),), (TensorSpec("y", (None, 5)),)), module.eval()
    )
    assert apply(setting.context.baseline, StructuredPruning(pruning_ratio=0.5), setting.context).module[0].out_channels == 4


def test_every_layer_can_have_a_ratio_of_its_own(world, network_of):
    module = network_of("residual")
    setting = world(module)
    ratios = {"*": 0.5, "one.0": 0.25, "two": 0.75, "two.3": 0}
    result = apply(setting.network, StructuredPruning(pruning_ratio=ratios, iterations=2), setting.context).module
    assert result.stem[0].out_channels == result.one[3].out_channels == 4
    assert result.one[0].out_channels == 6, "its own name counts before the pattern"
    assert result.two[0].out_channels == 8, "of two patterns the smaller ratio counts"
    assert result.two[3].out_channels == result.project.out_channels == 16, "of tied layers the smaller ratio counts"
    assert setting.context.reported["pruning_ratios"] == {
        "stem.0": 0.5,
        "one.3": 0.5,
        "one.0": 0.25,
        "two.0": 0.5,
        "two.3": 0.0,
        "project": 0.0,
    }


def test_layers_without_a_ratio_stay_whole(world, trained_cnn):
    setting = world(trained_cnn)
    result = apply(setting.network, StructuredPruning(pruning_ratio={"4": 0.99, "7": 0.5}), setting.context).module
    assert (result[0].out_channels, result[4].out_channels, result[7].out_features) == (8, 1, 5)
    assert warnings(setting)["layers_not_removable"].details["layers"] == ["7"]
    assert warnings(setting)["pruning_limited"].details["layers"] == ["4"]


def test_a_ratio_for_no_layer_is_an_error_that_names_near_ones(world, network_of):
    setting = world(network_of("residual"))
    with pytest.raises(EngineError) as caught:
        apply(setting.network, StructuredPruning(pruning_ratio={"one.0": 0.5, "projekt": 0.5}), setting.context)
    assert (caught.value.code, caught.value.details["pointer"]) == ("layer_not_found", "/steps/0/pruning_ratio/projekt")
    assert "project" in caught.value.hint


def test_ratios_by_layer_are_checked_where_they_stand():
    for value, where in (({"a": 1.0}, ("pruning_ratio", "a")), ({"a": 50}, ("pruning_ratio", "a")), ({}, ("pruning_ratio",))):
        with pytest.raises(ValidationError) as caught:
            StructuredPruning(pruning_ratio=value)
        assert [error["loc"] for error in caught.value.errors()] == [where]
    with pytest.raises(ValidationError, match="scope: layer"):
        StructuredPruning(pruning_ratio={"a": 0.5}, scope="global")


def test_layers_that_shared_a_weight_and_lose_other_channels_are_named(world, trained_cnn):
    setting = world(Tied())
    result = apply(setting.network, StructuredPruning(pruning_ratio={"near": 0.5, "far": 0.25}), setting.context).module
    assert result.near.weight is not result.far.weight
    assert warnings(setting)["weights_untied"].details["layers"] == [["far", "near"]]
    setting = world(trained_cnn)
    apply(setting.network, StructuredPruning(), setting.context)
    assert "weights_untied" not in warnings(setting)


class Added(Tied):
    """The same kernel twice, at two widths, with sums that tie their channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.stem(x))
        return self.head(torch.relu(self.near(h) + self.far(torch.relu(h))).mean((2, 3)))


def test_layers_with_a_common_weight_keep_it_where_nobody_names_them(world):
    setting = world(Tied())
    with pytest.raises(EngineError, match="their weight is that of other layers too") as caught:
        apply(setting.network, StructuredPruning(pruning_ratio=0.5), setting.context)
    assert caught.value.code == "pruning_impossible"
    setting = world(Added())
    result = apply(setting.network, StructuredPruning(pruning_ratio=0.5, round_to=1), setting.context).module
    assert result.near.weight is result.far.weight
    assert result.near.weight.shape[:2] == (4, 4)
    assert "weights_untied" not in warnings(setting)
