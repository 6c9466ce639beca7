"""A network with exits as a module: all of them for training, the last one by itself, one that is fixed, or the first that is sure enough."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from engine.formats.onnx.counting import multiplications, on_meta
from engine.methods.dynamic.exits.confidence import Confidence
from engine.methods.dynamic.exits.files import StageFiles
from engine.methods.dynamic.exits.stages import Plan, joined, run, selected
from engine.methods.dynamic.exits.thresholds import ALWAYS, NEVER
from engine.networks import masks
from engine.networks.network import Signature
from engine.networks.routed import NEAR, RoutedModule

Answers = list[list[Tensor]]
"""The outputs of every exit, in the network's order."""


class ExitNetwork(nn.Module):
    """Stages, each of which ends with an exit.

    In evaluation mode it is the network that was given: the last exit's outputs. In training it gives those of all exits in one list, the
    last exit's first, so that what looks for the network's own outputs finds them in their places.
    """

    def __init__(
        self,
        stages: Sequence[tuple[fx.GraphModule, Plan]],
        inputs: Mapping[str, int | None],
        outputs: int,
        *,
        frozen: frozenset[str] = frozenset(),
    ) -> None:
        """`inputs` by name, each with the dimension that counts examples; `frozen` are names of layers that training leaves alone."""
        super().__init__()
        self.stages = nn.ModuleList(module for module, _ in stages)
        self.plans = tuple(plan for _, plan in stages)
        self.inputs, self.outputs, self.frozen = tuple(inputs), outputs, frozen
        self.batch_axes = {**inputs, **{item.name: item.batch_axis for plan in self.plans for item in plan.gives}}
        """Of every tensor that a stage takes, the dimension that counts examples; None where it is the same for all."""
        self.files = StageFiles()

    def answers(self, *inputs: Tensor) -> tuple[Answers, list[Tensor]]:
        """Outputs and confidences of all exits."""
        live: dict[str, Tensor] = dict(zip(self.inputs, inputs, strict=True))
        found: Answers = []
        confidences = []
        for stage, plan in self.pairs():
            outputs, confidence, carried = run(stage, plan, live, self.outputs)
            live |= carried
            found.append(outputs)
            confidences.append(confidence)
        return found, confidences

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The last exit's outputs; in training those of all exits."""
        found, _ = self.answers(*inputs)
        if self.training:
            return tuple(output for outputs in (found[-1], *found[:-1]) for output in outputs)
        return found[-1][0] if self.outputs == 1 else tuple(found[-1])

    def train(self, mode: bool = True) -> ExitNetwork:
        """Training mode, but for layers that training leaves alone."""
        super().train(mode)
        for stage in self.stages:
            for name, layer in stage.named_modules():
                if mode and name in self.frozen:
                    layer.eval()
        return self

    def confidence(self, place: int) -> Confidence:
        """The layer that says how sure an exit is."""
        (found,) = (layer for layer in self.stages[place].modules() if isinstance(layer, Confidence))
        return found

    def pairs(self) -> list[tuple[fx.GraphModule, Plan]]:
        """Every stage with its plan."""
        return list(zip(self.stages, self.plans, strict=True))  # type: ignore[arg-type]  # a ModuleList forgets what it holds

    def costs(self, inputs: Sequence[Tensor]) -> list[int]:
        """Multiply-accumulates of one example up to each exit, all exits before it included. `inputs` are of any batch."""
        empty = on_meta(copy.deepcopy(self).cpu())
        assert isinstance(empty, ExitNetwork)
        live = dict(zip(self.inputs, (value[:1].to("meta") if value.ndim else value.to("meta") for value in inputs), strict=True))
        found = []
        with torch.device("meta"), multiplications(empty) as counter:
            for stage, plan in empty.pairs():
                _, _, carried = run(stage, plan, live, self.outputs)
                live |= carried
                found.append(int(counter.get_total_flops()) // 2)
        return found

    def at(self, place: int) -> FixedExit:
        """The network that always stops at one exit, and has no other."""
        return FixedExit(self, place)


class FixedExit(RoutedModule):
    """The network that always stops at one exit, and has no other."""

    input_dependent = False

    def __init__(self, network: ExitNetwork, place: int) -> None:
        """`place` of the exit, from 0; its layers are those of `network`."""
        super().__init__()
        self.layers = joined(network.pairs(), place, network.inputs, network.outputs)
        self._place, self._whole = place, (network,)  # in a tuple: what comes after the exit is no part of this module
        self.eval()

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The outputs of the exit."""
        found: Tensor | tuple[Tensor, ...] = self.layers(*inputs)
        return found

    def borderline(self, *inputs: Tensor) -> Tensor:
        """Nothing is decided."""
        return torch.zeros(len(inputs[0]), dtype=torch.bool)

    def write_onnx(self, signature: Signature, path: Path, *, half: bool) -> None:
        """The stages up to the exit, put together."""
        (network,) = self._whole
        plain = masks.fold(network)
        assert isinstance(plain, ExitNetwork)
        thresholds = [ALWAYS if place == self._place else NEVER for place in range(len(network.stages) - 1)]
        plain.files.write(plain, thresholds, signature, path, half=half)


class BudgetNetwork(RoutedModule):
    """Every example stops at the first exit that is sure enough of it, and costs what was computed up to there."""

    thresholds: Tensor

    def __init__(self, network: ExitNetwork, thresholds: Sequence[float]) -> None:
        """`thresholds`, one for each exit but the last; infinite where nothing stops."""
        super().__init__()
        self.network = network
        self.register_buffer("thresholds", torch.tensor(thresholds, dtype=torch.float32))
        self.eval()

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The outputs of every example's own exit."""
        outputs, _ = self.routed(*inputs)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def routed(self, *inputs: Tensor) -> tuple[list[Tensor], Tensor]:
        """The outputs of every example's own exit, and which one that was, from 0."""
        live: dict[str, Tensor] = dict(zip(self.network.inputs, inputs, strict=True))
        found: list[Tensor] = []
        rows = taken = torch.empty(0)
        for place, (stage, plan) in enumerate(self.network.pairs()):
            outputs, confidence, carried = run(stage, plan, live, self.network.outputs)
            live |= carried
            if not found:
                found = [output.clone() for output in outputs]
                rows = torch.arange(len(confidence), device=confidence.device)
                taken = torch.zeros_like(rows)
            else:
                found = [whole.index_copy(0, rows, part) for whole, part in zip(found, outputs, strict=True)]
                taken = taken.index_fill(0, rows, place)
            if place == len(self.network.stages) - 1:
                break
            on = torch.nonzero(~(confidence >= self.thresholds[place])).flatten()
            if not len(on):
                break
            rows = rows[on]
            live = {name: selected(value, self.network.batch_axes[name], on) for name, value in live.items()}
        return found, taken

    def borderline(self, *inputs: Tensor) -> Tensor:
        """Whether an exit is about as sure as it has to be."""
        _, confidences = self.network.answers(*inputs)
        near = torch.zeros(len(confidences[0]), dtype=torch.bool, device=confidences[0].device)
        for sure, threshold in zip(confidences[:-1], self.thresholds.tolist(), strict=True):
            if math.isfinite(threshold):
                near |= (sure - threshold).abs() <= NEAR * max(1.0, abs(threshold))
        return near

    def write_onnx(self, signature: Signature, path: Path, *, half: bool) -> None:
        """One file with an If behind each exit at which examples stop."""
        plain = masks.fold(self.network)
        assert isinstance(plain, ExitNetwork)
        plain.files.write(plain, self.thresholds.tolist(), signature, path, half=half)
