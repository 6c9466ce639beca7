"""The same by hand: torch-pruning, a plain loop, and ONNX Runtime's static quantization."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.tasks.cases import TRAIN, Case
from engine.formats.onnx.export import export_onnx
from engine.networks.network import Signature

BATCH, CALIBRATION = 64, 256


def outputs(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Of a module, as a tuple."""
    found = module(*inputs)
    return found if isinstance(found, tuple) else (found,)


def batches(case: Case, epochs: int) -> Iterator[tuple[tuple[Tensor, ...], dict[str, Tensor]]]:
    """The training examples, in another order each epoch."""
    inputs = [torch.from_numpy(value) for value in case.split(case.inputs, "train").values()]
    targets = {name: torch.from_numpy(value) for name, value in case.split(case.targets, "train").items()}
    for _ in range(epochs):
        for rows in torch.randperm(TRAIN).split(BATCH):
            yield tuple(item[rows] for item in inputs), {name: item[rows] for name, item in targets.items()}


def train(module: nn.Module, case: Case, *, epochs: int) -> None:
    """With the task's loss."""
    optimizer = torch.optim.Adam(module.parameters(), 2e-3)
    module.train()
    for inputs, targets in batches(case, epochs):
        optimizer.zero_grad()
        case.loss(outputs(module, inputs), targets, inputs).backward()
        optimizer.step()
    module.eval()


def compressed(case: Case, signature: Signature, work: Path, *, ratio: float, epochs: int, alpha: float) -> Path:
    """The file that is made by hand."""
    import torch_pruning

    student, teacher = copy.deepcopy(case.module).eval(), case.module.eval()
    examples = tuple(torch.from_numpy(value[:2]) for value in case.inputs.values())
    last = [layer for layer in student.modules() if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)][-len(case.outputs) :]
    heads = {layer: layer.num_heads for layer in student.modules() if isinstance(getattr(layer, "num_heads", None), int)}
    pruner = torch_pruning.pruner.MagnitudePruner(
        student,
        examples if len(examples) > 1 else examples[0],
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=[*last, *heads, *(layer for layer in student.modules() if isinstance(layer, nn.Embedding))],
    )
    pruner.step()
    optimizer = torch.optim.Adam(student.parameters(), 2e-3)
    student.train()
    for inputs, targets in batches(case, epochs):
        with torch.no_grad():
            wanted = outputs(teacher, inputs)
        given = outputs(student, inputs)
        loss = alpha * sum(
            (functional.mse_loss(one, other) / other.var() for one, other in zip(given, wanted, strict=True)), torch.tensor(0.0)
        )
        if alpha < 1:
            loss = loss + (1 - alpha) * case.loss(given, targets, inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pruned, made = work / "hand_pruned.onnx", work / "hand.onnx"
    export_onnx(student.eval(), signature, pruned)
    _quantize(pruned, made, case)
    return made


def _quantize(source: Path, target: Path, case: Case) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the library has no types
        def __init__(self) -> None:
            self.left = iter(range(0, CALIBRATION, 32))

        def get_next(self) -> Any:
            start = next(self.left, None)
            return None if start is None else {name: np.ascontiguousarray(value[start : start + 32]) for name, value in case.inputs.items()}

    prepared = source.with_suffix(".prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(target),
        Reader(),
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
