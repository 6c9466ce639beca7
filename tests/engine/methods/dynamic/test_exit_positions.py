"""Where exits are attached, and what is refused before anything is trained."""

from typing import Any

import pytest
import torch
from torch import nn

from engine.contract.errors import EngineError
from engine.methods.dynamic.early_exit import apply
from tests.engine.conftest import CLASSES, cnn, make_split
from tests.engine.methods.dynamic.exits import Build, Residual, exits_of, params


@pytest.mark.usefixtures("unwritten")
def test_named_positions_stand_behind_activation_and_sum(world: Build) -> None:
    torch.manual_seed(1)
    own = world(Residual(), train=60)
    network = apply(own.network, params(positions=["blocks.1", "blocks.0.3"], budgets=[], iterations=2), own.context)
    # In the network's order, and behind the residual sum: what the exit reads is never negative.
    assert [row["position"] for row in own.context.reported["exits"]] == ["blocks.0.3", "blocks.1.3", "end of the network"]
    stage = exits_of(network).stages[0]
    node = next(node for node in stage.graph.nodes if node.op == "call_module" and node.target == "exit1")
    assert node.args[0].target is torch.relu


@pytest.mark.usefixtures("unwritten")
def test_automatic_positions_are_spread_over_the_multiplications(world: Build) -> None:
    layers: list[nn.Module] = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU()]
    for _ in range(7):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    own = world(nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, CLASSES)), train=60)
    apply(own.network, params(exits=3, head="linear", budgets=[], iterations=1), own.context)
    whole = own.context.reported["whole_macs_count"]
    shares = [row["macs_count"] / whole for row in own.context.reported["exits"]]
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1], abs=0.08)


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"positions": ["7"]}, "exit_after_last_layer", "7"),
        ({"positions": ["conv9"]}, "layer_not_found", "conv9"),
        ({"positions": ["0", "1"]}, "exit_position_invalid", "'0'"),
        ({"budgets": [0.001]}, "budget_unreachable", "0.001"),
        ({"loss_weights": [1, 1]}, "loss_weights_invalid", "2 entries"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_trained(world: Build, changes: dict[str, Any], code: str, says: str) -> None:
    own = world(cnn(), train=60)
    with pytest.raises(EngineError, match=says) as caught:
        apply(own.network, params(**changes), own.context)
    assert caught.value.code == code
    assert caught.value.hint
    assert not any(event.phase == "training" for event in own.of("phase"))


def test_without_validation_examples_there_are_no_thresholds(world: Build) -> None:
    own = world(cnn(), train=60, validation=make_split(0, 4))
    with pytest.raises(EngineError) as caught:
        apply(own.network, params(), own.context)
    assert caught.value.code == "no_validation_examples"
    assert "x_validation" in str(caught.value.hint)


def test_a_network_of_one_layer_has_no_place_for_an_exit(world: Build) -> None:
    own = world(nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)), train=60)
    with pytest.raises(EngineError) as caught:
        apply(own.network, params(), own.context)
    assert caught.value.code == "no_exit_position"


def test_positions_cannot_be_added_to_a_network_with_exits_of_its_own(world: Build, msdnet: nn.Module) -> None:
    own = world(msdnet, train=60)
    with pytest.raises(EngineError, match="exits of its own") as caught:
        apply(own.network, params(positions=["first"]), own.context)
    assert caught.value.code == "exit_position_invalid"


def test_what_mixes_the_examples_cannot_be_carried_on(world: Build) -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(64, CLASSES)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            rows = torch.relu(self.first(images.reshape(-1, 8)))
            scores: torch.Tensor = self.third(torch.relu(self.second(rows)).reshape(-1, 64))
            return scores

    own = world(Mixing(), train=60)
    with pytest.raises(EngineError, match="first") as caught:
        apply(own.network, params(positions=["first"]), own.context)
    assert caught.value.code == "exit_position_invalid"
