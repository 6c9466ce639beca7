"""Static int8 quantization: QDQ graphs with activation ranges from calibration examples (ONNX Runtime)."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from engine.contract.errors import EngineError
from engine.formats.onnx.runtime import Feed, batches
from engine.measuring.environment import has_safe_int8
from engine.methods.quantization import calibration, graph, precision
from engine.methods.quantization.spec import StaticQuantization
from engine.networks.network import Network

if TYPE_CHECKING:
    from engine.methods.step import StepContext

_OPERATORS = tuple(sorted({*QDQRegistry, *QLinearOpsRegistry}))
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
PER_CHANNEL_OPSET = 13
"""The first ONNX operator set whose DequantizeLinear takes one scale a channel."""


def apply(network: Network, params: StaticQuantization, context: "StepContext") -> Network:
    """Quantize weights and activations to 8 bits; the result is an ONNX graph that cannot be trained.

    Source: Jacob et al., CVPR 2018; the QDQ representation is ONNX Runtime's.

    Raises:
        EngineError: `dataset_invalid` without a split to calibrate on, `nothing_quantized`, `already_quantized`,
            `calibration_failed`.
    """
    split_name, feeds, count = _calibration_feeds(network, params, context)
    reduce_range = not has_safe_int8() if params.reduce_range is None else params.reduce_range
    source = graph.onnx_file(network, context.work)
    context.phase("calibrating")
    prepared = graph.prepare(source, context.work, ignore=params.ignore, minimum_opset=PER_CHANNEL_OPSET)
    graph.warn_unmatched(prepared, context)
    untyped, tensors = _tensors_to_observe(onnx.load(prepared.path), set(prepared.excluded))
    ranges = calibration.observe(prepared.path, tensors, feeds, params.calibration, threads=context.threads, work=context.work)
    context.phase("quantizing")
    target = context.work / "quantized.onnx"
    with graph.quiet():
        quantizer = QDQQuantizer(
            onnx.load(prepared.path),
            per_channel=params.granularity == "channel",
            reduce_range=reduce_range,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if params.symmetric else QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, {k: (np.float32(a), np.float32(b)) for k, (a, b) in ranges.items()}),
            nodes_to_quantize=[],
            nodes_to_exclude=[*prepared.excluded, *untyped],
            op_types_to_quantize=list(_OPERATORS),
            extra_options={"ActivationSymmetric": params.symmetric},
        )
        quantizer.quantize_model()
        quantizer.model.save_model_to_file(target, False)
    del quantizer
    graph.finish(target)
    context.report("calibration", {"split": split_name, "examples_count": count, "observer": params.calibration.observer})
    context.report("reduce_range", reduce_range)
    precision.report(source, target, context)
    prepared.path.unlink()
    return network.with_onnx(target)


def _calibration_feeds(network: Network, params: StaticQuantization, context: "StepContext") -> tuple[str, calibration.Feeds, int]:
    """Examples of the training split (or, without one, of the validation split), drawn with the job's seed. Never of the test split."""
    splits = {} if context.data is None else context.data.splits
    names = [name for name in ("train", "validation") if name in splits and name != context.evaluation_split]
    if not names:
        raise EngineError(
            "dataset_invalid",
            f"Static quantization calibrates on training examples, but the dataset has {', '.join(sorted(splits)) or 'no splits'}"
            f" (and {context.evaluation_split} is kept for the evaluation).",
            hint="Upload a dataset with x_train (labels are not needed), or use dynamic_quantization.",
        )
    split = splits[names[0]]
    count = min(params.calibration.samples, split.count)
    chosen = np.sort(context.rng().choice(split.count, count, replace=False))
    fixed = network.signature.inputs[0].shape[0] if network.signature.inputs[0].shape else None
    passes = 0

    def feeds() -> Iterator[Feed]:
        nonlocal passes
        done, expected = passes * count, (1 if params.calibration.observer == "minmax" else 2) * count
        passes += 1
        for indices in batches(chosen, params.calibration.batch_size, fixed):
            yield split.batch(indices)[0]
            done += len(indices)
            context.progress(0.9 * min(1.0, done / expected), f"calibrating, {min(done, expected)}/{expected} examples")

    return names[0], feeds, count


def _tensors_to_observe(model: onnx.ModelProto, excluded: set[str]) -> tuple[list[str], list[str]]:
    """Nodes that must stay in floating point because a type is unknown, and the float tensors around all others."""
    known = (*model.graph.value_info, *model.graph.output, *model.graph.input)
    types = {item.name: item.type.tensor_type.elem_type for item in known}
    constants = {item.name: item.data_type for item in model.graph.initializer}
    untyped: list[str] = []
    tensors: dict[str, None] = {}
    for node in model.graph.node:
        if node.op_type not in _OPERATORS or node.name in excluded:
            continue
        names = [name for name in (*node.input, *node.output) if name and name not in constants]
        if any(types.get(name, 0) == 0 for name in names):
            untyped.append(node.name)
        else:
            tensors |= dict.fromkeys(name for name in names if types[name] in _FLOATS)
    return untyped, list(tensors)
