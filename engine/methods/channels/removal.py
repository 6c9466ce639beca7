"""What every method that cuts channels does before and after: choose the groups, and say what was left of the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import nn

from engine.contract.errors import EngineError
from engine.contract.params import Finetune, LayerChoice
from engine.methods.context import Context
from engine.networks.example_inputs import example_inputs, running_inputs
from engine.networks.layers import PRUNABLE, layer_not_found, matches, select
from engine.structure.channels import ChannelGroup, Inputs
from engine.structure.graph import ChannelGraph
from engine.structure.imagination import holds_places, imagined
from engine.structure.plan import Costs
from engine.structure.proof import removable
from engine.structure.sharing import sharers, unties
from engine.training.batches import Batch

TRIED = "tried, a network without some of them does not run or computes something else: its own code takes their number for granted"
UNNAMED = "hidden units are cut only where include or pruning_ratio names the layer, and not by thinet"

SHARED = (
    "their weight is that of other layers too, which keep these channels; they are cut only where include or pruning_ratio names layers"
)

SEARCHED = 0.7
"""Share of the progress of a step that finds channels while it trains, and then tunes."""


def graph_inputs(module: nn.Module, context: Context) -> Inputs:
    """Two training examples, or made-up ones: the graph is traced with them, and cuts are tried on them."""
    if context.data is not None and "train" in context.data.splits and context.data.splits["train"].count > 1:
        return Batch.of(context.split("train"), np.arange(2), context.input_names, context.device).inputs
    if not holds_places(module):
        with suppress(EngineError, NotImplementedError):
            # Whether it runs shows without computing anything.
            found = running_inputs(imagined(module), context.signature, 2, torch.device("meta"))
            shapes = {spec.name: tuple(value.shape[1:]) for spec, value in zip(context.signature.inputs, found, strict=True)}
            return example_inputs(context.signature, 2, context.device, shapes=shapes)
    return running_inputs(module, context.signature, 2, context.device)


def choose_groups(
    groups: Sequence[ChannelGroup],
    graph: ChannelGraph,
    inputs: Inputs,
    choice: LayerChoice,
    context: Context,
    *,
    recurrent: bool = False,
    named: bool = False,
) -> list[ChannelGroup]:
    """Those of the graph's `groups` that the user's patterns leave and that can really be cut; a warning names the others.

    Hidden units of recurrent layers are among them where `recurrent`. What layers with a common weight would lose apart from each other is
    among them where layers are `named`: the file would hold a weight for each of them.

    Raises `pruning_impossible` where there are none.
    """
    module = graph.module
    types = (*PRUNABLE, nn.RNNBase) if recurrent else PRUNABLE
    included = select(module, include=choice.include, types=types)
    allowed = select(module, ignore=choice.ignore, types=types)
    context.unmatched(allowed.unmatched_ignores)
    wanted = [
        group
        for group in groups
        if any(name in included.layers for name in group.layers) and all(name in allowed.layers for name in group.layers)
    ]
    shared = {} if named or choice.include else sharers(module)
    apart = [group for group in wanted if unties(group, shared)] if shared else []
    wanted = [group for group in wanted if all(group is not other for other in apart)]
    names = removable(module, inputs, [group.name for group in wanted], graph)
    tried = {name: TRIED for group in wanted if group.name not in names for name in group.layers}
    tried |= {name: SHARED for group in apart for name in group.layers}
    kept_out = {name: why for name, why in graph.fixed.items() if name in included.layers and name in allowed.layers} | tried
    if not names and not recurrent:
        kept_out |= {name: UNNAMED for group in groups for name in group.layers if isinstance(module.get_submodule(name), nn.RNNBase)}
    reasons = ". ".join(
        f"{', '.join(name for name, why in kept_out.items() if why == reason)}: {reason}" for reason in dict.fromkeys(kept_out.values())
    )
    if not names:
        raise EngineError(
            "pruning_impossible",
            "This network has no channels that could be removed: "
            + (reasons or "its layers are outputs, left out by include or ignore, or (for bn_scale) without batch normalization")
            + ".",
            hint="Check include and ignore, or use magnitude_pruning, which keeps shapes.",
            details={"not_removable": list(kept_out), "reasons": kept_out},
        )
    if kept_out:
        context.warn(
            "layers_not_removable", f"These layers keep all of their channels. {reasons}.", layers=list(kept_out), reasons=kept_out
        )
    return [group for group in wanted if group.name in names]


def ratios_of(groups: Sequence[ChannelGroup], wanted: Mapping[str, float], module: nn.Module, context: Context) -> dict[str, float]:
    """The ratio of every group, by layer names and patterns; 0 for groups that nothing names.

    Raises `layer_not_found` for a pattern that names no layer. Patterns whose layers cannot be pruned are told.
    """
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, (*PRUNABLE, nn.RNNBase))}
    named = {pattern: {name for name, layer in layers.items() if matches(pattern, name, layer)} for pattern in wanted}
    for pattern in wanted:
        if not named[pattern]:
            pointer = f"/steps/{context.step_index or 0}/pruning_ratio/{pattern.replace('~', '~0').replace('/', '~1')}"
            raise layer_not_found(f"pruning_ratio: {pattern!r}", pattern, layers, pointer=pointer)
    found = {}
    for group in groups:
        ratios = [
            wanted[name] if name in wanted else min(wanted[pattern] for pattern in wanted if name in named[pattern])
            for name in group.layers
            if any(name in names for names in named.values())
        ]
        found[group.name] = min(ratios, default=0.0)
    removable = {name for group in groups for name in group.layers}
    idle = [pattern for pattern, ratio in wanted.items() if ratio > 0 and not named[pattern] & removable]
    if idle:
        context.warn("layers_not_removable", f"pruning_ratio: no channels can be removed from {', '.join(idle)}.", layers=idle)
    context.report("pruning_ratios", {name: found[group.name] for group in groups for name in group.layers})
    return found


class Shrinkage:
    """Widths and costs of a module before a change, to be compared with what they are after it."""

    def __init__(self, module: nn.Module, inputs: Inputs) -> None:
        self.before = _counts(module, inputs)
        self._inputs = inputs
        self._widths = _widths(module)
        self._shared = _shared(module)

    def report(self, module: nn.Module, context: Context) -> dict[str, int]:
        """Put what is left of every layer and of the whole into the step's report; layers that are gone have no channels."""
        after, widths = _counts(module, self._inputs), _widths(module)
        context.report("layers", {n: {"channels_before": count, "channels_after": widths.get(n, 0)} for n, count in self._widths.items()})
        untied = [names for names in self._shared if not any(set(names) <= set(still) for still in _shared(module))]
        if untied:
            context.warn(
                "weights_untied",
                f"These layers shared a weight and have one of their own each, as other channels went from each of them: "
                f"{'; '.join(', '.join(names) for names in untied)}. The file holds all of them; to keep one, name these layers and those before them in ignore.",
                layers=untied,
            )
        context.report("before", self.before)
        context.report("after", after)
        for name, value in after.items():
            context.metric(name, value)
        return after


def tune(module: nn.Module, finetune: Finetune | None, shrinkage: Shrinkage, context: Context) -> None:
    """What is left to do after a search: tune the smaller network in place, where that was asked for, and report its widths and costs."""
    if finetune is not None:
        context.phase("training")
        with context.part(SEARCHED, 1.0):
            context.train(module, finetune)
        context.stage("tuned", module)
    shrinkage.report(module, context)


def _counts(module: nn.Module, inputs: Inputs) -> dict[str, int]:
    costs = Costs(module, inputs)
    return {"params_count": costs.params_count(), "macs_count": costs.macs_count()}


def _shared(module: nn.Module) -> list[list[str]]:
    """Names of the layers that read the same weight, together."""
    places: dict[int, list[str]] = {}
    for name, value in module.named_parameters(remove_duplicate=False):
        if value.dim() > 1:
            places.setdefault(id(value), []).append(name.rpartition(".")[0] or name)
    return [sorted(set(names)) for names in places.values() if len(set(names)) > 1]


def _widths(module: nn.Module) -> dict[str, int]:
    """Output channels of every convolution and linear layer, and hidden units of recurrent ones."""
    return {name: _width(layer) for name, layer in module.named_modules() if isinstance(layer, (*PRUNABLE, nn.RNNBase))}


def _width(layer: nn.Module) -> int:
    if isinstance(layer, nn.RNNBase):
        return layer.hidden_size
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)  # type: ignore[arg-type]  # a convolution, where it is no other
