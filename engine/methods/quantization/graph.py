"""An ONNX file made ready for quantization: names, operator set, fused normalizations, known types, and what stays in floating point."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx.external_data_helper import uses_external_data

from engine.contract.errors import EngineError
from engine.contract.patterns import matches
from engine.formats.onnx import apart
from engine.formats.onnx.importer.names import module_path
from engine.formats.onnx.inference import inferred, skeleton_of
from engine.formats.onnx.naming import FreshNames
from engine.methods.quantization.carried import unsigned
from engine.methods.quantization.integer_forms import keep_apart, keep_in_float, spell_einsums_out, split_sums
from engine.methods.quantization.single import to_single
from engine.methods.quantization.ties import STORED, turn_in_graph, turned
from engine.networks.network import Network

if TYPE_CHECKING:
    from engine.methods.step import StepContext

_QUANTIZED_OPS = frozenset(
    [
        "ConvInteger",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "GatherBlockQuantized",
        "MatMulInteger",
        "MatMulNBits",
        "QLinearConv",
        "QuantizeLinear",
    ]
)

_SMALL_BYTES = 4096
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "GRU", "Gather", "Gemm", "LSTM", "MatMul", "RNN"})
"""Operators whose weights nobody looks at while a graph is planned."""


@dataclass(frozen=True)
class Prepared:
    """A float graph on disk, its large constants beside it, and the nodes of it that `ignore` keeps in floating point."""

    path: Path
    excluded: tuple[str, ...]
    unmatched: tuple[str, ...]
    """Patterns of `ignore` that named nothing."""
    widened: str | None
    """The element type of the network's weights, where they were not float32: it computes in float32 from here on."""


def prepare(source: Path, work: Path, *, ignore: Sequence[str], minimum_opset: int) -> Prepared:
    """Write a copy of `source` that the quantizer understands.

    Every node gets a name, batch normalizations are folded into convolutions, constants are computed and tensor types inferred. A
    network in float16 or double computes in float32 between inputs and outputs of its own types.
    Where ONNX Runtime cannot optimize the graph, only the types are inferred. `ignore` is matched against node names, the names of
    the layers that weights belong to (`fc.weight` → `fc`) and operator types, before and after nodes are fused.

    Raises:
        EngineError: `already_quantized`, `unsupported_operator` where the operator set is too old and cannot be raised.
    """
    model = onnx.load(source)
    if any(node.op_type in _QUANTIZED_OPS for node in all_nodes(model.graph)):
        raise EngineError(
            "already_quantized", "The network holds quantized operators already.", hint="Upload the floating-point network instead."
        )
    _name_nodes(model.graph)
    _drop_weights_from_inputs(model)
    widened = to_single(model)
    unmatched = tuple(p for p in ignore if not any(_named_by(p, node) for node in all_nodes(model.graph)))
    kept_names, kept_tensors = _kept(model.graph, ignore)
    spell_einsums_out(model.graph)
    metadata = {item.key: item.value for item in model.metadata_props}
    opsets = {item.domain: item.version for item in model.opset_import}
    parts = apart.split(_with_opset(model, minimum_opset))
    del model
    path = work / "prepared.onnx"
    prepared = _optimized(*parts, path)
    del parts
    _name_nodes(prepared.graph)
    _drop_unused_domains(prepared, opsets)
    onnx.helper.set_model_props(prepared, metadata)
    _lift_constants(prepared.graph)
    split_sums(prepared)
    _add_types(prepared)
    keep_apart(prepared)
    keep_in_float(prepared)
    onnx.save(prepared, path)
    excluded = tuple(
        node.name
        for node in all_nodes(prepared.graph)
        if node.name in kept_names or kept_tensors & {*node.output, *node.input[1:]} or any(_named_by(p, node) for p in ignore)
    )
    return Prepared(path, excluded, unmatched, widened)


def outline(path: Path) -> onnx.ModelProto:
    """A graph with the names, types and shapes of its weights, and without the data of large ones."""
    model = apart.outline(path)
    result = onnx.ModelProto()
    result.opset_import.extend(model.opset_import)
    for field in ("node", "input", "output", "value_info"):
        getattr(result.graph, field).extend(getattr(model.graph, field))
    summed = {name for node in all_nodes(model.graph) if node.op_type not in _PRODUCTS for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.name in summed:
            apart.load_constant(tensor, path)
        elif len(tensor.raw_data) > _SMALL_BYTES or uses_external_data(tensor):
            result.graph.initializer.add(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
            continue
        result.graph.initializer.append(tensor)
    return result


def finish(path: Path) -> None:
    """Strip what exporters leave in a file and no runtime reads: documentation, stack traces, scratch metadata of the quantizer.

    Signed bytes that the runtime could not carry become unsigned ones (see `carried`), and a matrix that stands there turned as well is held once.
    """
    model = unsigned(onnx.load(path))
    turn_in_graph(model, turned(model, STORED))
    for node in all_nodes(model.graph):
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    for item in (*model.graph.value_info, *model.graph.initializer):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    for item in model.graph.initializer:
        item.ClearField("data_location")
    del model.graph.value_info[:]
    kept = [item for item in model.metadata_props if item.key not in ("onnx.infer", "onnx.quant.pre_process")]
    onnx.helper.set_model_props(model, {item.key: item.value for item in kept})
    onnx.save(model, path)


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node of the graph and of the subgraphs of If, Loop and Scan."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in graph_attributes(attribute):
                yield from all_nodes(inner)


def graph_attributes(attribute: onnx.AttributeProto) -> Sequence[onnx.GraphProto]:
    """The subgraphs that an attribute holds."""
    if attribute.type == onnx.AttributeProto.GRAPH:
        return (attribute.g,)
    return tuple(attribute.graphs) if attribute.type == onnx.AttributeProto.GRAPHS else ()


def layer_name(node: onnx.NodeProto, suffix: str = ".weight") -> str | None:
    """Name of the layer whose weight the node reads, as frameworks name parameters (`block.conv.weight`)."""
    return next((name.removesuffix(suffix) for name in node.input[1:] if name.endswith(suffix)), None)


def _named_by(pattern: str, node: onnx.NodeProto) -> bool:
    layer = layer_name(node) or module_path(node, [])
    return matches(pattern, node.name, (node.op_type,)) or (layer is not None and matches(pattern, layer))


def _optimized(rest: onnx.ModelProto, constants: apart.Constants, target: Path) -> onnx.ModelProto:
    """The graph after the runtime's basic optimizations, or as it is where the runtime cannot load it alone."""
    try:
        apart.optimize(rest, constants, target)
    except EngineError:
        return apart.joined(rest, constants)
    return apart.outline(target)


def _add_types(model: onnx.ModelProto) -> None:
    """Types and shapes of all values; inferred without the weights, which need not be copied for it."""
    known = {item.name for item in (*model.graph.input, *model.graph.output, *model.graph.initializer)}
    found = [item for item in inferred(skeleton_of(model)).graph.value_info if item.name not in known]
    del model.graph.value_info[:]
    model.graph.value_info.extend(found)


def _lift_constants(graph: onnx.GraphProto) -> None:
    """Turn Constant nodes of the main graph, which are there where the runtime did not fold them, into initializers."""
    nodes = [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]
    for node in nodes:
        graph.initializer.add().CopyFrom(node.attribute[0].t)
        graph.initializer[-1].name = node.output[0]
        graph.node.remove(node)


def _kept(graph: onnx.GraphProto, ignore: Sequence[str]) -> tuple[set[str], set[str]]:
    """Names of the ignored nodes, and tensors that only they write or read: what a node fused out of them is recognized by."""
    ignored = {node.name for node in all_nodes(graph) if any(_named_by(pattern, node) for pattern in ignore)}
    others = {name for node in all_nodes(graph) if node.name not in ignored for name in node.input}
    weights = {item.name for item in graph.initializer} - others
    tensors = {name for node in all_nodes(graph) if node.name in ignored for name in (*node.output, *(weights & set(node.input)))}
    return ignored, tensors - {""}


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node, those of subgraphs too, a name that no other node has."""
    taken = {node.name for node in all_nodes(graph)}
    seen: set[str] = set()
    for index, node in enumerate(all_nodes(graph)):
        if not node.name or node.name in seen:
            name = f"{node.name or node.op_type}__{index}"
            while name in taken:
                name = f"{name}_"
            node.name = name
            taken.add(name)
        seen.add(node.name)


def _drop_weights_from_inputs(model: onnx.ModelProto) -> None:
    """Weights that are listed as inputs may be overridden by a caller, so that nothing could be folded or quantized."""
    weights = {item.name for item in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)


def _with_opset(model: onnx.ModelProto, minimum: int) -> onnx.ModelProto:
    version = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), minimum)
    if version >= minimum:
        return model
    try:
        return _with_fills(onnx.version_converter.convert_version(model, minimum))
    except Exception as error:
        raise EngineError(
            "unsupported_operator",
            f"Quantization needs ONNX operator set {minimum}; the file has {version} and cannot be raised: {str(error)[:300]}",
            hint=f"Export the network with opset {minimum} or newer.",
        ) from error


def _with_fills(model: onnx.ModelProto) -> onnx.ModelProto:
    """Pads whose fill became an input in operator set 11: the converter leaves it where it was."""
    fresh = FreshNames(model.graph)
    for node in model.graph.node:
        fill = next((item for item in node.attribute if item.name == "value"), None)
        if node.op_type == "Pad" and node.domain in ("", "ai.onnx") and fill is not None and len(node.input) == 2:
            name = fresh.claim(f"{node.output[0]}_fill")
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(fill.f, np.float32), name))
            node.input.append(name)
            node.attribute.remove(fill)
    return model


def _drop_unused_domains(model: onnx.ModelProto, original: dict[str, int]) -> None:
    """ONNX Runtime declares every domain that it knows in the files that it writes."""
    used = {node.domain for node in all_nodes(model.graph)}
    keep = [item for item in model.opset_import if item.domain in used | {""} | set(original)]
    imports = [onnx.helper.make_opsetid(item.domain, item.version) for item in keep]
    del model.opset_import[:]
    model.opset_import.extend(imports)


def onnx_file(network: Network, work: Path) -> Path:
    """The network as an ONNX file: the one that it came in, or a fresh export."""
    return network.file(work / "float.onnx")


def warn_prepared(prepared: Prepared, context: "StepContext") -> None:
    """Tell the user that a pattern of `ignore` named nothing, and in which type the network computes now."""
    for pattern in prepared.unmatched:
        context.warn("pattern_unmatched", f"ignore: {pattern!r} names no node or layer of this network.", pattern=pattern)
    if prepared.widened is not None:
        context.warn(
            "computed_in_float32",
            f"The network's {prepared.widened} operators compute in int8 and float32; inputs and outputs keep their types.",
            element_type=prepared.widened,
        )
