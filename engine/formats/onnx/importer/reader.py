"""One node of an ONNX graph, read the way its opset means it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import onnx
import torch

from engine.contract.errors import EngineError
from engine.formats.onnx.importer.names import module_path
from engine.formats.onnx.importer.values import Constant, Flow, Value, object_array, sizes_of

KEEP_HINT = (
    "Post-training quantization still works on this model, since it needs no training. To prune or distill it, export it again without "
    "this operator (torch.onnx.export of the model in eval mode, a current opset), or upload safetensors with a builtin architecture."
)

OPEN_BATCH_HINT = (
    "Export the network with an open batch: torch.onnx.export(…, dynamic_axes={'input': {0: 'batch'}, …}). Post-training quantization works "
    "on this file as it is."
)

TRAINING_HINT = (
    "Export the network in eval mode, normalizations kept: torch.onnx.export(model.eval(), …, dynamo=False, "
    "training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False)."
)


class Op:
    """Inputs, attributes and settings of a node, whether its opset keeps them as attributes or as inputs."""

    def __init__(
        self, node: onnx.NodeProto, inputs: Sequence[Value | None], opset: int, consumers: dict[str, list[onnx.NodeProto]]
    ) -> None:
        self.node = node
        self.type = node.op_type
        self.inputs = list(inputs)
        self.opset = opset
        self.consumers = consumers
        self.attributes: dict[str, Any] = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}

    @property
    def label(self) -> str:
        """The node as a message names it."""
        return f"{self.node.name or '(unnamed)'} ({self.type})"

    def path(self, tensors: Sequence[str] = ()) -> str | None:
        """Where the node's layer stood in the original network; `tensors` are the names of its weights."""
        return module_path(
            self.node, [name for name in tensors if name], shared=any(len(self.consumers.get(name, ())) > 1 for name in tensors)
        )

    def fail(self, reason: str, *, hint: str = KEEP_HINT) -> NoReturn:
        """Refuse the node: its meaning is known, but has no trainable form here."""
        raise EngineError(
            "unsupported_operator",
            f"Node {self.label} cannot be made trainable: {reason}.",
            hint=hint,
            details={"node": self.node.name, "operator": self.type, "reason": reason},
        )

    def refuse_training_mode(self, trains: bool, consequence: str) -> None:
        """Refuse a node that was exported in training mode, where `trains`: what it computes for one example depends on more than that."""
        if trains:
            self.fail(f"it was exported in training mode, in which it {consequence}", hint=TRAINING_HINT)

    def get(self, index: int) -> Value | None:
        """Input `index`, or None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def value(self, index: int) -> Value:
        """Input `index`; the node is invalid without it."""
        found = self.get(index)
        if found is None:
            raise EngineError("model_invalid", f"Node {self.label} lacks its input {index}.")
        return found

    def rank(self, index: int) -> int:
        """Number of dimensions of an input."""
        return rank_of(self.value(index))

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute as Python object; bytes become str."""
        found = self.attributes.get(name, default)
        return found.decode("utf-8", "replace") if isinstance(found, bytes) else found

    def constant(self, index: int) -> Constant | None:
        """Input `index` if it is constant."""
        found = self.get(index)
        return found if isinstance(found, Constant) else None

    def known(self, index: int, what: str) -> torch.Tensor:
        """The tensor of an input that has to be constant."""
        found = self.constant(index)
        if found is None:
            self.fail(f"its {what} is computed while the network runs")
        return found.tensor

    def ints(self, name: str, index: int | None = None) -> list[int] | None:
        """Integers that stand in attribute `name` or, in later opsets, in input `index`; None where they are left out."""
        if name in self.attributes:
            return [int(item) for item in self.attribute(name)]
        if index is None or self.get(index) is None:
            return None
        return [int(item) for item in self.known(index, name).reshape(-1).tolist()]

    def number(self, name: str, index: int | None, default: float | None) -> float | None:
        """A number that stands in attribute `name` or in input `index`."""
        if name in self.attributes:
            return float(self.attribute(name))
        if index is None or self.get(index) is None:
            return default
        tensor = self.known(index, name)
        if tensor.numel() != 1:
            self.fail(f"its {name} is not one number")
        return float(tensor.item())

    def sizes(self, index: int) -> list[Any] | None:
        """Elements (ints and Symbols) of an integer input; None where it is left out or only known when the network runs."""
        found = self.get(index)
        array = None if found is None else object_array(found)
        return None if array is None else list(array.ravel())

    def only(self, **allowed: Any) -> None:
        """Refuse attribute values other than the allowed one."""
        for name, expected in allowed.items():
            if self.attribute(name, expected) != expected:
                self.fail(f"{name} = {self.attribute(name)!r} is not supported")

    def sole_consumer(self, output: int = 0) -> onnx.NodeProto | None:
        """The one node that reads an output, if it is the only one and the output leaves the network nowhere else."""
        readers = self.consumers.get(self.node.output[output], [])
        return readers[0] if len(readers) == 1 else None


def rank_of(value: Value) -> int:
    """Number of dimensions of any tensor."""
    if isinstance(value, Flow):
        return value.rank
    return value.tensor.dim() if isinstance(value, Constant) else int(sizes_of(value).ndim)
