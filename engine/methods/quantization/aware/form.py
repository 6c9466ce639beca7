"""The module that is trained: the float graph rebuilt, with every tensor, weight and bias rounded where the quantized file rounds it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.formats.onnx.importer import shapes
from engine.formats.onnx.importer.builder import Builder
from engine.formats.onnx.importer.parameters import Origin
from engine.formats.onnx.importer.reader import Op
from engine.formats.onnx.importer.rebuild import Rebuilt, rebuild
from engine.formats.onnx.importer.values import Constant as Known
from engine.formats.onnx.importer.values import Flow, Value
from engine.methods.quantization.aware.fake import FakeQuantize, Weigher, WeightStep
from engine.methods.quantization.aware.layers import Constant, RoundedLayer
from engine.methods.quantization.aware.normalization import CONVOLUTIONS, FoldedNormalization, Normalized, matching
from engine.methods.quantization.aware.writing import FAKE_QUANTIZE, LOOK_UP, Layout, TrainingWriter, Weighed
from engine.methods.quantization.plan import Plan
from engine.methods.quantization.rounding import Scaling
from engine.methods.quantization.spec_training import QuantizationAwareTraining

WeightKey = tuple[str, int | None]
"""Name of a weight in the file, and the dimension that its scales belong to."""
_WITH_WEIGHTS = (nn.Linear, nn.Embedding, Constant, *CONVOLUTIONS, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Rounding:
    """How the file rounds."""

    plan: Plan
    scalings: Mapping[str, Scaling]
    by_channel: bool
    levels: int
    """The largest 8-bit weight."""
    portable: bool
    """Whether steps keep two weights together within 128."""
    learned: bool
    """Whether the steps are trained."""

    @classmethod
    def of(cls, params: QuantizationAwareTraining, plan: Plan, scalings: Mapping[str, Scaling]) -> Rounding:
        """As the parameters say. A learned step knows nothing of pairs: where kernels may saturate, it has half of the levels."""
        learned = params.step_size == "learned"
        portable = params.reduces_range and not learned
        return cls(plan, scalings, params.granularity == "channel", 64 if params.reduces_range and learned else 127, portable, learned)

    @property
    def grid(self) -> dict[str, Any]:
        """How a writer rounds weights."""
        return {"by_channel": self.by_channel, "levels": self.levels, "portable": self.portable}


class TrainingForm(nn.Module):
    """The network as the quantized file computes it, trainable; made by `build`."""

    def __init__(self, network: fx.GraphModule, quantizers: Mapping[str, FakeQuantize]) -> None:
        super().__init__()
        self.network = network
        self.places: list[tuple[nn.Module, str, Origin]] = []
        """Layers, the attribute that holds a trained parameter, and where that stands in the file."""
        self.steps: dict[WeightKey, WeightStep] = {}
        self._quantizers = dict(quantizers)

    def forward(self, *inputs: Tensor) -> Any:
        """The network's outputs."""
        return self.network(*inputs)

    def train(self, mode: bool = True) -> TrainingForm:
        """Normalizations that stand alone keep their running statistics, which the file states."""
        super().train(mode)
        own = {id(layer.norm) for layer in self.folded()}
        for layer in self.network.modules():
            if isinstance(layer, _BatchNorm) and id(layer) not in own:
                layer.eval()
        return self

    def quantizer(self, tensor: str) -> FakeQuantize | None:
        """What rounds a tensor, where it is rounded."""
        return self._quantizers.get(tensor)

    def folded(self) -> list[FoldedNormalization]:
        """Convolutions with a normalization that was taken out of them."""
        return [layer for layer in self.network.modules() if isinstance(layer, FoldedNormalization)]

    @torch.no_grad()
    def values(self) -> dict[str, NDArray[Any]]:
        """The float constants of the file as they are now, by name."""
        found: dict[str, NDArray[Any]] = {}
        for layer, attribute, origin in self.places:
            if isinstance(layer, FoldedNormalization):
                value = layer.folded()[0 if attribute == "weight" else 1]
            else:
                value = layer.weight() if isinstance(layer, RoundedLayer) and attribute == "weight" else origin.parameter
            found[origin.initializer] = (value.t() if origin.transposed else value).detach().cpu().numpy()
        return found

    @torch.no_grad()
    def scalings(self) -> dict[str, Scaling]:
        """How the file stores activations."""
        return {name: quantizer.scaling() for name, quantizer in self._quantizers.items()}

    @torch.no_grad()
    def scales(self) -> dict[WeightKey, NDArray[np.float32]]:
        """The learned scales of weights."""
        return {key: step.learned_step().cpu().numpy() for key, step in self.steps.items() if step.learned}


def build(model: onnx.ModelProto, rounding: Rounding, normalizations: Sequence[Normalized] = (), *, hold_zeros: bool) -> TrainingForm:
    """The trainable form of a float graph, in evaluation mode.

    Args:
        model: What `writing.trainable` made; changed, and of no use afterwards.
        rounding: How the file rounds.
        normalizations: Those that the network has behind convolutions; they are taken out of the ones of the file that they were folded into.
        hold_zeros: Whether weights that are zero stay zero.

    Raises:
        EngineError: `unsupported_operator` where an operator has no trainable form.
    """
    sizes = {item.name: math.prod(item.dims) for item in model.graph.initializer}
    writer = TrainingWriter(model, rounding.plan, rounding.scalings, **rounding.grid)
    written = writer.write()
    quantizers: dict[str, FakeQuantize] = {}

    def fake(op: Op, build: Builder) -> Value:
        tensor = str(op.attribute("tensor"))
        if tensor not in quantizers:
            quantizers[tensor] = FakeQuantize(rounding.scalings[tensor], learned=rounding.learned)
        return build.layer(quantizers[tensor], "rounding", op.value(0), key=(FAKE_QUANTIZE, tensor))

    rebuilt = rebuild(written, {FAKE_QUANTIZE: fake, LOOK_UP: _look_up})
    # Of a constant that the file repeats for every example of its batch, a part cannot be written back.
    whole = tuple(origin for origin in rebuilt.origins if origin.parameter.numel() == sizes.get(origin.initializer))
    rebuilt = replace(rebuilt, origins=whole)
    form = TrainingForm(rebuilt.module, quantizers)
    _Fitter(form, rebuilt, writer.layout, rounding, hold_zeros=hold_zeros).fit(normalizations)
    return form.eval()


def _look_up(op: Op, build: Builder) -> Value:
    """Rows of a matrix that is trained and rounded, also where the graph says which ones."""
    table, index = op.constant(0), op.value(1)
    assert table is not None
    if not isinstance(index, Known | Flow):
        index = build.call("to", index, torch.int64)
    return shapes.embedding(op, build, table, index)


class _Fitter:
    """Puts rounding layers in the place of plain ones."""

    def __init__(self, form: TrainingForm, rebuilt: Rebuilt, layout: Layout, rounding: Rounding, *, hold_zeros: bool) -> None:
        self._form, self._module, self._layout, self._rounding = form, rebuilt.module, layout, rounding
        self._constants = rebuilt.constants
        self._hold_zeros = hold_zeros
        self._origins = [origin for origin in rebuilt.origins if origin.initializer not in layout.fixed]

    def fit(self, norms: Sequence[Normalized]) -> None:
        """Change the module in place; `norms` are taken out of the convolutions that hold them."""
        self._norms = list(norms)
        self._own_constants()
        known = self._tied()
        steps = {id(item.ratio) for item in self._module.modules() if isinstance(item, FakeQuantize) and item.learned}
        for parameter in self._module.parameters():
            parameter.requires_grad_(id(parameter) in known or id(parameter) in steps)
        by_weight = defaultdict(list)
        for item in self._layout.layers:
            by_weight[item.weight].append(item)
        for path, layer in list(self._module.named_modules()):
            if isinstance(layer, _WITH_WEIGHTS):
                self._replace(path, layer, known, by_weight)
        taken = {id(origin.parameter) for _, _, origin in self._form.places}
        for layer in self._module.modules():
            for name, parameter in layer.named_parameters(recurse=False):
                if id(parameter) in known and id(parameter) not in taken:
                    self._form.places += [(layer, name, origin) for origin in known[id(parameter)]]

    def _tied(self) -> dict[int, list[Origin]]:
        """Where each parameter that can be written back stands. Layers that share a weight of the file share its parameter."""
        kept: dict[str, Origin] = {}
        known: dict[int, list[Origin]] = defaultdict(list)
        broken: set[int] = set()
        for origin in self._origins:
            first = kept.setdefault(origin.initializer, origin)
            if first.parameter is not origin.parameter:
                if first.transposed != origin.transposed or first.parameter.shape != origin.parameter.shape:
                    # Two copies of one constant of the file would be trained apart.
                    broken |= {id(first.parameter), id(origin.parameter)}
                    continue
                _put(self._module, origin.parameter, first.parameter)
                continue
            if origin not in known[id(origin.parameter)]:
                known[id(origin.parameter)].append(origin)
        return {key: found for key, found in known.items() if key not in broken}

    def _own_constants(self) -> None:
        """Weights that the graph reads without a layer become layers."""
        stored = {item.weight for item in self._layout.layers}
        for node in list(self._module.graph.nodes):
            source, transposed = self._constants.get(str(node.target), ("", False)) if node.op == "get_attr" else ("", False)
            if source not in stored:
                continue
            path, _, attribute = str(node.target).rpartition(".")
            holder = self._module.get_submodule(path)
            value = getattr(holder, attribute)
            if not isinstance(value, nn.Parameter):
                value = nn.Parameter(value)
                self._origins.append(Origin(value, source, transposed))
            delattr(holder, attribute)
            holder.add_module(attribute, Constant(value))
            with self._module.graph.inserting_before(node):
                call = self._module.graph.call_module(str(node.target))
            node.replace_all_uses_with(call)
            self._module.graph.erase_node(node)
        self._module.recompile()

    def _replace(self, path: str, layer: nn.Module, known: Mapping[int, list[Origin]], by_weight: Mapping[str, list[Weighed]]) -> None:
        weight, bias = layer.weight, getattr(layer, "bias", None)
        assert isinstance(weight, nn.Parameter)
        origins = known.get(id(weight), [])
        biases = known.get(id(bias), []) if bias is not None else []
        names = {origin.initializer for origin in biases}
        items = [item for origin in origins for item in by_weight.get(origin.initializer, ())]
        # Of layers that share a weight, each has a bias of its own: by it, the right one is known. A table may be a matrix, too.
        items = [item for item in items if item.is_table == isinstance(layer, nn.Embedding)]
        item = next((item for item in items if item.bias is None or item.bias in names), None)
        held = self._hold_zeros and bool(origins) and bool((weight == 0).any())
        found = matching(self._norms, weight, bias) if isinstance(layer, CONVOLUTIONS) and len(origins) == len(biases) == 1 else None
        if found is not None:
            rounded: FoldedNormalization | RoundedLayer = FoldedNormalization(layer, found, held=held)
        elif item is not None or held:
            rounded = RoundedLayer(layer, held=held)
        else:
            return
        if item is not None:
            transposed = next(origin.transposed for origin in origins if origin.initializer == item.weight)
            self._weigh(rounded, item, weight, transposed)
        self._form.places += [(rounded, "weight", origin) for origin in origins]
        self._form.places += [(rounded, "bias", origin) for origin in biases if isinstance(rounded, FoldedNormalization)]
        self._module.set_submodule(path, rounded)

    def _weigh(self, layer: FoldedNormalization | RoundedLayer, item: Weighed, weight: Tensor, transposed: bool) -> None:
        key = (item.weight, item.axis)
        if key not in self._form.steps:
            axis = None if item.axis is None else 1 - item.axis if transposed else item.axis
            how = self._rounding
            self._form.steps[key] = WeightStep(weight, axis, how.levels, learned=how.learned, portable=how.portable)
        source = None if item.source is None or item.bias is None else self._form.quantizer(item.source)
        layer.round(self._form.steps[key], Weigher(self._form.steps[key], source))


def _put(module: nn.Module, old: nn.Parameter, new: nn.Parameter) -> None:
    """Let every layer that has one parameter have the other."""
    for layer in module.modules():
        for name, parameter in list(layer._parameters.items()):
            if parameter is old:
                layer._parameters[name] = new
