"""What an uploaded model is: the result of its inspection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.contract.inspection import LayerInfo, ModelInspection, OpenSizes, SignatureInfo, TensorInfo
from engine.contract.metadata import ModelMetadata
from engine.formats.loading import load_network
from engine.formats.onnx import runtime
from engine.formats.onnx.counting import count_operations, counts_of, multiplications
from engine.formats.onnx.executed import with_repeated
from engine.formats.onnx.file import is_quantized, narrowed, read_model, signature_of
from engine.formats.onnx.flat import first_output
from engine.formats.onnx.importer.names import module_path
from engine.formats.onnx.inference import inferred, skeleton_of
from engine.formats.onnx.macs import node_macs, total
from engine.formats.onnx.one_file import settings_of
from engine.formats.onnx.packed import unpacked
from engine.formats.onnx.weights import Weight, weight_tensors
from engine.jobs.layer_reasons import of_graph, with_reasons
from engine.networks.network import Counts, Network, Signature

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.flop_counter import FlopCounterMode

_QUANTIZABLE = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def inspect_model(path: Path, format: str, metadata: ModelMetadata, work: Path) -> ModelInspection:
    """Signature, figures, operators and layers of a model.

    Layers of a trainable model are those of the module, by the names that a spec's `ignore` and `include` take; of any other they
    are the weighted nodes of the graph. Shapes have null for the batch. `work` is for scratch files. Raises the codes of `load_network`.
    """
    network = load_network(path, format, metadata, work)
    return network.measure(
        on_file=lambda file: _of_graph(network, file, metadata),
        on_module=lambda module: _document(network.signature, network.count(), *_looked_at(network), reason=None),
    )


def _of_graph(network: Network, path: Path, metadata: ModelMetadata) -> ModelInspection:
    model = unpacked(narrowed(read_model(path), metadata.input_specs))
    _check_runs(path, len(model.graph.node))
    weights, macs = weight_tensors(model), with_repeated(model, node_macs(model))
    counts = counts_of(weights, macs)
    reason = _untrainable(network, model)
    if reason is None:
        layers, taken = _looked_at(network)
    else:
        layers, taken = of_graph(graph_layers(model, weights, macs), reason), _Pass()
    opset = max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=None)
    operators = Counter(
        f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type for node in model.graph.node
    )
    found = _document(signature_of(model), counts, layers, taken, reason=reason)
    return found.model_copy(update={"opset": opset, "operators": dict(sorted(operators.items())), "settings": settings_of(path)})


def _check_runs(path: Path, nodes: int) -> None:
    """Load the file as a job will. Of very many nodes the runtime's optimizations take a time that grows with their square: such a file is
    loaded as it stands, and with them only where that fails. Raises `model_invalid`."""
    if nodes > limits.MAX_TRAINABLE_NODES:
        try:
            runtime.open_session(path, threads=1, optimized=False)
            return
        except EngineError:
            pass
    runtime.open_session(path, threads=1)


@dataclass(frozen=True)
class _Pass:
    """What a pass of a trainable module takes."""

    activation_bytes: int | None = None
    open_sizes: OpenSizes | None = None
    """Where the signature leaves sizes open."""


def _looked_at(network: Network) -> tuple[list[LayerInfo], _Pass]:
    """Layers of a trainable network, and what a pass takes, on the same made-up example."""
    from engine.networks.example_inputs import fitting_inputs

    inputs = fitting_inputs(network.module, network.signature, 1)
    return with_reasons(network, module_layers(network.module, inputs)), _pass(network.module, network.signature, inputs)


def _pass(module: nn.Module, signature: Signature, inputs: Sequence[Tensor]) -> _Pass:
    from engine.networks.activations import kept_bytes
    from engine.networks.example_inputs import DOES_NOT_FIT

    kept, counted = kept_bytes(module, inputs), None
    if any(size is None for spec in signature.inputs for size in spec.shape[1:]):
        shapes = {spec.name: tuple(value.shape[1:]) for spec, value in zip(signature.inputs, inputs, strict=True)}
        with suppress(*DOES_NOT_FIT):
            counted = OpenSizes(inputs=shapes, macs_count=count_operations(module, signature, shapes))
    return _Pass(kept, counted)


def module_layers(module: nn.Module, inputs: Sequence[Tensor]) -> list[LayerInfo]:
    """Every leaf module that runs, in the order in which it first does: name, type, shapes, parameters, MACs, and what can be done to it."""
    from engine.networks.layers import PRUNABLE

    rows: dict[str, _Seen] = {}
    hooks = []

    def before(name: str, counter: FlopCounterMode) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            row = rows.setdefault(name, _Seen(layer, _shape_of(inputs), prunable=isinstance(layer, PRUNABLE)))
            row.macs_count -= counter.get_total_flops() // 2

        return hook

    def after(name: str, counter: FlopCounterMode) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            rows[name].macs_count += counter.get_total_flops() // 2
            rows[name].output_shape = _shape_of(output)

        return hook

    try:
        with multiplications(module) as counter:
            for name, layer in module.named_modules():
                if name and not list(layer.children()):
                    hooks += [layer.register_forward_pre_hook(before(name, counter)), layer.register_forward_hook(after(name, counter))]
            module.eval()(*inputs)
    except RuntimeError as error:
        raise EngineError("model_invalid", f"The network does not run on one example: {str(error).splitlines()[0]}.") from error
    finally:
        for hook in hooks:
            hook.remove()
    last = next((name for name, row in reversed(rows.items()) if row.prunable), None)
    return [row.described(name, prunable=row.prunable and name != last) for name, row in rows.items()]


def graph_layers(model: onnx.ModelProto, weights: Mapping[str, Weight], macs: Mapping[str, int | None]) -> list[LayerInfo]:
    """The weighted nodes of a graph that has no trainable form."""
    graph = inferred(skeleton_of(model)).graph
    shapes = {item.name: _declared(item) for item in (*graph.input, *graph.value_info, *graph.output)}
    read_by: dict[str, int | None] = {}
    for weight in weights.values():
        read_by[weight.readers[0]] = total([read_by.get(weight.readers[0], 0), weight.size])
    rows = []
    for index, node in enumerate(model.graph.node):
        made = first_output(node)
        if not made or (made not in read_by and made not in macs):
            continue
        rows.append(
            LayerInfo(
                name=node.name or module_path(node, list(node.input[1:])) or f"{node.op_type.lower()}_{index}",
                type=node.op_type,
                input_shape=shapes.get(node.input[0]) if node.input else None,
                output_shape=shapes.get(made),
                params_count=read_by.get(made, 0),
                macs_count=macs.get(made, 0),
                prunable=False,
                quantizable=node.op_type in _QUANTIZABLE,
            )
        )
    return rows


def _untrainable(network: Network, model: onnx.ModelProto) -> str | None:
    if is_quantized(model):
        return "The graph is quantized already: its integer weights cannot be trained."
    try:
        _ = network.module
    except EngineError as error:
        # onnxruntime has loaded the file: shapes that do not fit here are a limit of the import, and no fault of the file.
        if error.code not in ("unsupported_operator", "model_invalid"):
            raise
        return f"{error.message} {error.hint}" if error.code == "model_invalid" and error.hint else error.message
    return None


def _document(signature: Signature, counts: Counts, layers: list[LayerInfo], taken: _Pass, *, reason: str | None) -> ModelInspection:
    inputs, outputs = (
        tuple(TensorInfo(name=tensor.name, shape=tensor.shape, dtype=tensor.dtype) for tensor in side)
        for side in (signature.inputs, signature.outputs)
    )
    return ModelInspection(
        signature=SignatureInfo(inputs=inputs, outputs=outputs),
        **asdict(counts),
        activation_bytes=taken.activation_bytes,
        open_sizes=taken.open_sizes,
        trainable=reason is None,
        untrainable_reason=reason,
        layers=tuple(layers),
    )


@dataclass
class _Seen:
    """A layer that ran, and what was counted meanwhile."""

    layer: nn.Module
    input_shape: list[int | None] | None
    prunable: bool
    output_shape: list[int | None] | None = None
    macs_count: int = 0

    def described(self, name: str, *, prunable: bool) -> LayerInfo:
        return LayerInfo(
            name=name,
            type=type(self.layer).__name__,
            input_shape=self.input_shape,
            output_shape=self.output_shape,
            params_count=sum(item.numel() for item in self.layer.parameters()),
            macs_count=self.macs_count,
            prunable=prunable,
            quantizable=self.prunable,
        )


def _shape_of(value: Any) -> list[int | None] | None:
    while isinstance(value, tuple | list) and value:
        value = value[0]
    return [None, *value.shape[1:]] if hasattr(value, "shape") and len(value.shape) else None


def _declared(item: onnx.ValueInfoProto) -> list[int | None] | None:
    kind = item.type.tensor_type
    return [dim.dim_value or None for dim in kind.shape.dim] if kind.HasField("shape") else None
