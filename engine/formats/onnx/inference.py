"""Shapes and types that follow from a graph's inputs, without its large weights and whatever the file itself claims."""

import math

import onnx

from engine.contract.errors import EngineError

_LONGEST_VECTOR = 1 << 20
"""Elements up to which values are followed."""
_SMALL = 4096
"""Elements up to which a constant is kept for shape inference: shapes and axes are short."""


def skeleton_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph without its large weights, which become inputs, and without the shapes that the file claims for other values."""
    skeleton = onnx.ModelProto()
    skeleton.ir_version = model.ir_version
    skeleton.opset_import.extend(model.opset_import)
    skeleton.functions.extend(model.functions)
    graph = skeleton.graph
    graph.name = "skeleton"
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    named = {item.name for item in model.graph.input}
    for item in model.graph.output:
        graph.output.add(name=item.name).type.tensor_type.elem_type = item.type.tensor_type.elem_type
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _SMALL:
            graph.initializer.append(tensor)
        elif tensor.name not in named:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return skeleton


def inferred(skeleton: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with the shapes that follow from its inputs. Raises `model_invalid` where they contradict one another.

    Values are followed, since shapes are computed from them, unless there is a vector of so many elements that following it would take
    the memory: onnx keeps more than a hundred bytes for each of them.
    """
    try:
        plain = onnx.shape_inference.infer_shapes(skeleton)
        if any(_is_long_vector(item) for item in (*plain.graph.input, *plain.graph.value_info, *plain.graph.output)):
            return plain
        return onnx.shape_inference.infer_shapes(skeleton, data_prop=True)
    except MemoryError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise EngineError("model_invalid", f"The shapes in the graph contradict one another: {reason}.") from error


def shape_of(item: onnx.ValueInfoProto) -> list[int] | None:
    """A value's shape, open dimensions counted as one; None where its rank is unknown."""
    kind = item.type.tensor_type
    if not item.type.HasField("tensor_type") or not kind.HasField("shape"):
        return None
    return [max(1, dim.dim_value) for dim in kind.shape.dim]


def _is_long_vector(item: onnx.ValueInfoProto) -> bool:
    dims = item.type.tensor_type.shape.dim
    return len(dims) == 1 and dims[0].dim_value > _LONGEST_VECTOR
