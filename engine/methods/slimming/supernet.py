"""From an uploaded network to one whose layers can be taken at any width: what can be cut, in which order, and how many are left."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from engine.contract.errors import EngineError
from engine.methods.channels.importance import unit_scores
from engine.methods.channels.inserted_normalization import insert_normalization
from engine.methods.channels.own_normalization import lacks_normalization
from engine.methods.channels.removal import choose_groups, graph_inputs
from engine.methods.context import Context
from engine.methods.slimming.spec_slimmable import SlimmableParams
from engine.methods.slimming.switchable import AtWidth, Switchable, Units
from engine.structure.channels import ChannelGroup, Inputs
from engine.structure.graph import ChannelGraph
from engine.training.batch_norm import has_running_statistics, recalibrate


class Supernet:
    """A copy of a network, the groups of its channels that have a width, and the order of the units of each."""

    def __init__(self, module: nn.Module, params: SlimmableParams, context: Context) -> None:
        """Of a network that is switchable already, the widest with the order that it was trained in."""
        given = module if isinstance(module, Switchable) else None
        self.module = context.without_masks(module if given is None else given.widest)
        self.inputs: Inputs = graph_inputs(self.module, context)
        self._params, self._context = params, context
        self.inserted: list[str] = []
        """Convolutions that got a normalization behind them."""
        if params.insert_normalization and lacks_normalization(self.module):
            self.inserted = insert_normalization(self.module, self.inputs, context)
        self.graph = ChannelGraph(self.module, self.inputs)
        self.groups = self._choose()
        found = self._ranked() if given is None else [given.order[group.name] for group in self.groups]
        self._order = dict(zip((group.name for group in self.groups), found, strict=True))
        self._shapes = {group.name: (len(group.units), group.units.shape[1]) for group in self.groups}

    def _choose(self) -> list[ChannelGroup]:
        """Where the network has heads, the stream that its blocks add to keeps its width: heads and hidden units are nested."""
        groups = self.graph.groups
        self.has_heads = any(group.heads for group in groups)
        if self.has_heads:
            groups = [group for group in groups if not _is_stream(group)]
        if any(isinstance(part.layer, nn.RNNBase) or part.owner is not None for group in groups for part in group.parts):
            groups = [g for g in groups if all(part.owner is None and not isinstance(part.layer, nn.RNNBase) for part in g.parts)]
        return choose_groups(groups, self.graph, self.inputs, self._params, self._context)

    def _ranked(self) -> list[Tensor]:
        """The units of every group, the best first."""
        if self._params.ranking == "first":
            return [torch.arange(len(group.units)) for group in self.groups]
        scores = unit_scores(self.module, self.groups, self._params.ranking, self._context, together=False)
        return [torch.sort(values, stable=True, descending=True).indices for values in scores]

    @property
    def order(self) -> Units:
        """The units of each group, the best first."""
        return self._order

    def counts(self, width: float, *, one_at_least: bool = False) -> dict[str, int]:
        """How many units of each group a width has. Raises `width_empties_layer` where that is none of some layer, unless it keeps one then."""
        found = {}
        for group in self.groups:
            units, size = self._shapes[group.name]
            step = self._params.round_to // math.gcd(self._params.round_to, size)
            count = math.floor(width * units / step + 0.5) * step
            if math.floor(width * units + 0.5) == 0 and not one_at_least:
                what = "heads" if group.heads else "channels"
                raise EngineError(
                    "width_empties_layer",
                    f"Width {width:g} leaves nothing of the layer {group.layers[0]}, which has {units} {what}.",
                    hint=f"Leave out widths below {0.5 / units:.2g}, or keep the layer whole: ignore: [{group.layers[0]!r}].",
                    details={"layer": group.layers[0], "width": width, "units": units},
                )
            found[group.name] = min(max(count, step), units)
        return found

    def units(self, counts: Mapping[str, int]) -> Units:
        """The first units of each group, ascending."""
        return {name: order[: counts[name]].sort().values for name, order in self._order.items()}

    def copied(self) -> Supernet:
        """The same around a copy of the module."""
        other = copy.copy(self)
        other.module = copy.deepcopy(self.module)
        other.graph = self.graph.on(other.module)
        there = {group.name: group for group in other.graph.groups}
        other.groups = [there[group.name] for group in self.groups]
        return other

    def cut(self, counts: Mapping[str, int]) -> None:
        """Remove all other units from the module, after which the graph is that of another one."""
        kept = self.units(counts)
        for group in self.groups:
            left = torch.zeros(len(group.units), dtype=torch.bool)
            left[kept[group.name]] = True
            if not bool(left.all()):
                self.graph.remove(group, group.units[~left].reshape(-1).tolist())

    def cut_to(self, counts: Mapping[str, int]) -> None:
        """Make these widths the largest that there are; counts are of the units that the network had at first.

        A group of which one unit is left is none any more: it is the same at every width.
        """
        kept = self.units(counts)
        self.cut(counts)
        self.graph = ChannelGraph(self.module, self.inputs)
        present = {group.name: group for group in self.graph.groups}
        self.groups = [present[group.name] for group in self.groups if group.name in present]
        left = [group.name for group in self.groups]
        self._order = {name: torch.searchsorted(kept[name], self._order[name][: counts[name]]) for name in left}


def calibrate(network: Switchable, numbers: range, context: Context) -> None:
    """Measure the running statistics of batch normalization at the given widths."""
    for number in numbers:
        at = AtWidth(network, number)
        if has_running_statistics(at):
            recalibrate(at, context.split("train"), context.input_names, context.device)


def _is_stream(group: ChannelGroup) -> bool:
    """What the blocks of a transformer add to: normalized as a whole, or made by a table. One number a channel is a bias, and no table."""
    if group.heads:
        return False
    return any(
        isinstance(part.layer, nn.LayerNorm | nn.RMSNorm | nn.Embedding)
        or (isinstance(part.layer, nn.Parameter) and part.layer.numel() > len(part.indices))
        for part in group.parts
    )
