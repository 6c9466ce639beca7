"""`round_to: auto` asks the runtime which numbers of channels are worth while."""

import pytest
import torch

from engine.methods.pruning.spec import StructuredPruning
from engine.methods.pruning.structured_pruning import apply
from engine.structure.alignment import WIDTHS, aligned, multiples, smallest
from engine.structure.graph import ChannelGraph

X = (torch.randn(2, 1, 8, 8),)


def test_a_multiple_is_chosen_where_smaller_ones_save_no_time():
    in_proportion = {multiple: float(width**2) for multiple, width in WIDTHS.items()}
    assert smallest(in_proportion) == 1, "37 channels take less time than 48"
    in_blocks = {multiple: float(-(-width // 8) * 8) ** 2 for multiple, width in WIDTHS.items()}
    assert smallest(in_blocks) == 8, "37 channels take as long as 40"
    assert smallest({1: 1.3, 2: 1.3, 4: 0.75, 8: 0.8, 16: 1.0}) == 4, "only multiples of four have a fast kernel"
    assert smallest(dict.fromkeys(WIDTHS, 1.0)) == 16


def test_every_kind_of_layer_is_measured_on_the_runtime():
    found = multiples(1)
    assert set(found) == {"convolution", "depthwise", "linear"}
    assert set(found.values()) <= set(WIDTHS)
    assert multiples(1) is found, "once"


def test_layers_of_few_channels_are_rounded_less(network_of):
    groups = ChannelGraph(network_of("plain"), X).groups
    found = {"convolution": 16, "depthwise": 16, "linear": 1}
    assert {group.name: group.channels_count for group in groups} == {"0": 8, "4": 12, "7": 16}
    assert aligned(groups, dict.fromkeys(("0", "4", "7"), 0.5), found) == {"0": 2, "4": 2, "7": 1}
    assert aligned(groups, {"0": 0.1, "4": 0.9, "7": 0.1}, found) == {"0": 1, "4": 1, "7": 1}


@pytest.mark.parametrize(("round_to", "left"), [("auto", 6), (1, 7)])
def test_what_is_kept_is_a_multiple_and_told(world, network_of, monkeypatch, round_to, left):
    monkeypatch.setattr("engine.methods.pruning.structured_pruning.multiples", lambda threads: {"convolution": 4, "linear": 4})
    setting = world(network_of("plain"))
    result = apply(setting.network, StructuredPruning(pruning_ratio=0.44, round_to=round_to, include=("4",)), setting.context).module
    assert result[4].out_channels == left
    assert setting.context.reported.get("round_to") == ({"4": 2} if round_to == "auto" else None)
