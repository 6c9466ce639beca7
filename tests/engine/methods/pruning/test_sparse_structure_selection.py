"""Factors move by the paper's proximal steps, become exactly zero, and what they switch off can go without a change of the outputs."""

import copy

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from engine.architectures.build import build_architecture
from engine.contract.errors import EngineError
from engine.methods.channels.removal import choose_groups
from engine.methods.pruning.sparse_structure_selection import ProximalSteps, apply, soft_threshold
from engine.methods.pruning.spec import SparseStructureSelection
from engine.methods.pruning.structure.structures import attach, block, conv_groups, neurons
from engine.networks import masks
from engine.structure.blocks import find_blocks, remove_blocks
from engine.structure.graph import ChannelGraph
from engine.training.loop import learning_rate

INPUTS = (torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)),)


def params(**changes):
    return SparseStructureSelection(
        **({"epochs": 4, "optimizer": "sgd", "learning_rate": 0.1, "schedule": "constant", "penalty": 0.5} | changes)
    )


def test_two_steps_are_the_papers_equations():
    """λ = 1, g = 2, η = 0.1, γ = 1, μ = 0.9: z = 0.8, S = 0.7, v = -0.3, λ = 0.7 - 0.27; and once more with g = 0."""
    values = nn.Parameter(torch.tensor([1.0]))
    steps = ProximalSteps(values, gamma=1.0, momentum=0.9)
    values.grad = torch.tensor([2.0])
    steps(0.1)
    assert values.item() == pytest.approx(0.43)
    assert values.grad is None
    values.grad = torch.tensor([0.0])
    steps(0.1)
    velocity = 0.33 - 0.43 + 0.9 * -0.3
    assert values.item() == pytest.approx(0.33 + 0.9 * velocity, abs=1e-6)


def test_the_steps_reach_the_closed_form_solution_with_exact_zeros():
    """min ½(λ - a)² + γ|λ| has the solution S(a, γ)."""
    wanted = torch.tensor([1.0, 0.4, 0.1, -0.05, -0.8])
    values = nn.Parameter(torch.ones(5))
    steps = ProximalSteps(values, gamma=0.2, momentum=0.9)
    for _ in range(300):
        values.grad = values.detach() - wanted
        steps(0.1)
    assert torch.allclose(values, soft_threshold(wanted, 0.2), atol=1e-4)
    assert values.detach()[2:4].tolist() == [0.0, 0.0]


def test_a_factor_scales_what_the_readers_get(network_of):
    """Equal to scaling the channel behind batch normalization and activation."""
    module = network_of("plain")
    group = next(g for g in ChannelGraph(module, INPUTS).groups if g.name == "0")
    expected = copy.deepcopy(module)
    factors = attach(neurons(group))
    with torch.no_grad():
        factors.values.copy_(torch.linspace(0, 2, 8))
    expected[2].register_forward_hook(lambda *a: a[-1] * factors.values[:, None, None])
    assert torch.allclose(module(*INPUTS), expected(*INPUTS), atol=1e-5)


def test_channels_with_factor_zero_go_without_a_change(world, shaped):
    context = world(shaped).context
    module = copy.deepcopy(shaped)
    expected = module(*INPUTS)
    graph = ChannelGraph(module, INPUTS)
    found = [neurons(group) for group in choose_groups(graph.groups, graph, INPUTS, params(), context)]
    found = [structures for structures in found if structures is not None]
    assert found
    factors = [attach(structures) for structures in found]
    assert torch.equal(module(*INPUTS), expected), "factors of one change nothing"
    dead = {structures.name: list(range(0, structures.count - 1, 2)) for structures in found}
    with torch.no_grad():
        for structures, item in zip(found, factors, strict=True):
            item.values[dead[structures.name]] = 0
        expected = module(*INPUTS)
    plain = masks.fold(module)
    for structures in found:
        plain = structures.remove(plain, INPUTS, dead[structures.name])
    assert torch.allclose(plain(*INPUTS), expected, atol=1e-4)
    assert sum(p.numel() for p in plain.parameters()) < 0.8 * sum(p.numel() for p in shaped.parameters())


def test_groups_of_a_grouped_convolution_go_as_a_whole():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.Sigmoid(), nn.Conv2d(16, 24, 3, groups=4), nn.BatchNorm2d(24), nn.Sigmoid(),
        nn.Flatten(), nn.Linear(24 * 16, 5),
    ).eval()  # fmt: skip
    (structures,) = conv_groups(module, ChannelGraph(module, INPUTS).groups, params())
    factors = attach(structures)
    assert (structures.name, structures.count) == ("3", 4)
    with torch.no_grad():
        factors.values[[0, 2]] = 0
        expected = module(*INPUTS)
    plain = structures.remove(masks.fold(module), INPUTS, [0, 2])
    assert torch.allclose(plain(*INPUTS), expected, atol=1e-5)
    assert (plain[0].out_channels, plain[3].groups, plain[3].in_channels, plain[3].out_channels) == (8, 2, 8, 12)
    assert tuple(plain[3].weight.shape) == (12, 4, 3, 3)
    assert not conv_groups(module, ChannelGraph(plain, INPUTS).groups, params(ignore=("3",)))


def test_blocks_are_found_and_leave_their_shortcut(network_of):
    module = network_of("residual")
    found = find_blocks(module)
    assert [(item.tail, item.layers) for item in found] == [("one.4", ("one.0", "one.3")), ("two.3", ("two.0", "two.3"))]
    for item in found:
        changed = copy.deepcopy(module)
        factors = attach(block(changed, item))
        with torch.no_grad():
            factors.values.zero_()
            expected = changed(*INPUTS)
        cut = remove_blocks(masks.fold(changed), {item.tail})
        assert torch.allclose(cut(*INPUTS), expected, atol=1e-6)
        assert not any(name in dict(cut.named_modules()) for name in item.layers)
    assert remove_blocks(copy.deepcopy(module), {"one.4", "two.3"})(*INPUTS).shape == (4, 5)


@pytest.mark.parametrize(
    ("name", "options", "count"), [("resnet8", {"width": 4}, 3), ("vit_small_images", {"depth": 2}, 4), ("densenet40", {"depth": 7}, 0)]
)
def test_blocks_of_builtin_architectures(name, options, count):
    module, _ = build_architecture({"name": name, "params": options})
    assert len(find_blocks(module)) == count


def test_training_selects_and_removal_changes_nothing(world, trained_cnn):
    setting = world(trained_cnn)
    result = apply(setting.network, params(), setting.context).module
    report = setting.context.reported
    counts = {name: item["zero_count"] for name, item in report["structures"].items()}
    assert sum(counts.values()) > 0
    assert report["after"]["params_count"] < report["before"]["params_count"]
    stages = {stage["stage"]: stage for stage in report["stages"]}
    assert stages["removed"]["test.cross_entropy"] == pytest.approx(stages["selected"]["test.cross_entropy"], abs=1e-5)
    assert result[0].out_channels == max(1, 8 - counts["neuron 0"])
    assert not any("parametrizations" in name for name, _ in result.named_parameters())


def test_a_stronger_penalty_removes_more(world, trained_mlp):
    ratios = []
    for penalty in (0.01, 0.3, 3.0):
        setting = world(copy.deepcopy(trained_mlp))
        apply(setting.network, params(penalty=penalty), setting.context)
        ratios.append(setting.context.metrics["structures_zero_ratio"])
    assert ratios == sorted(ratios)
    assert ratios[0] < ratios[2]


def test_no_layer_is_emptied_and_blocks_may_all_go(world, network_of):
    setting = world(network_of("residual"))
    result = apply(setting.network, params(structures=("neuron", "block"), penalty=50.0, min_channels=2), setting.context).module
    widths = {name: layer["channels_after"] for name, layer in setting.context.reported["layers"].items()}
    assert all(width == 0 or width >= 2 for width in widths.values())
    assert find_blocks(result) == []
    (emptied,) = [event.details["layers"] for event in setting.of("warning") if event.code == "structures_all_zero"]
    assert set(emptied) == {"one.0", "stem.0", "two.0", "project"}, "their channels are there, but all that reads them is zero"
    assert result(*INPUTS).shape == (4, 5)


def test_it_says_when_zero_is_out_of_reach(world, trained_mlp):
    setting = world(trained_mlp)
    apply(setting.network, params(penalty=1e-4, epochs=1), setting.context)
    assert {"sparsity_unreachable", "nothing_selected"} <= {event.code for event in setting.of("warning")}
    assert setting.context.reported["after"] == setting.context.reported["before"]


def test_networks_without_the_structure_are_refused(world, trained_mlp):
    setting = world(trained_mlp)
    with pytest.raises(EngineError, match="block") as caught:
        apply(setting.network, params(structures=("block", "group")), setting.context)
    assert caught.value.code == "pruning_impossible"
    with pytest.raises(ValidationError, match="once"):
        params(structures=("block", "block"))


def test_the_penalty_is_not_the_factor_of_the_learning_rates_schedule():
    stepped = params(schedule="multistep", penalty=0.5, learning_rate=1.0, milestones=(0.5,))
    assert learning_rate(stepped, 9, 10) == pytest.approx(0.1), "a tenth, as in the paper"
    assert learning_rate(params(schedule="multistep", gamma=0.2, learning_rate=1.0, milestones=(0.5,)), 9, 10) == pytest.approx(0.2)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_factors_move_by_gradient_steps_whatever_moves_the_weights(world, trained_mlp, optimizer, monkeypatch):
    """Rates of Adam are a tenth or a hundredth of those of plain gradient steps: with them no factor would reach zero."""
    rates = []
    step = ProximalSteps.__call__
    monkeypatch.setattr(ProximalSteps, "__call__", lambda self, rate: (rates.append(rate), step(self, rate))[1])
    chosen = SparseStructureSelection(optimizer=optimizer, iterations=4, schedule="linear", structure_learning_rate=0.2)
    setting = world(trained_mlp)
    apply(setting.network, chosen, setting.context)
    assert sorted(set(rates), reverse=True) == pytest.approx([0.2, 0.15, 0.1, 0.05])
    assert chosen.learning_rate == (0.05 if optimizer == "sgd" else 1e-3)
    assert SparseStructureSelection(optimizer=optimizer, epochs=1).factor_rate == 0.05
    assert SparseStructureSelection(optimizer=optimizer, epochs=1, learning_rate=0.3).factor_rate == (0.3 if optimizer == "sgd" else 0.05)
