"""Quantization-aware training: the rounding of the int8 file in the forward pass, gradients straight through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch

from engine.contract.display import Note
from engine.contract.errors import EngineError
from engine.contract.json import JsonObject
from engine.formats.onnx import runtime
from engine.formats.onnx.runtime import Feed
from engine.methods.context import Context
from engine.methods.quantization import agreement
from engine.methods.quantization.aware.best import Best
from engine.methods.quantization.aware.form import Rounding, TrainingForm, build
from engine.methods.quantization.aware.normalization import normalized
from engine.methods.quantization.aware.teaching import taught
from engine.methods.quantization.aware.writing import trainable, write_trained
from engine.methods.quantization.spec import StaticQuantization
from engine.methods.quantization.spec_training import QuantizationAwareTraining
from engine.methods.quantization.static_quantization import Calibrated
from engine.networks.network import Network
from engine.training.batches import Batch, Examples, as_list
from engine.training.loop import Hooks, Moment, iterations_of
from engine.training.losses import Loss

EXACT = 1e-4
"""Outputs of the trained module and of the file count as equal up to this, in units of the largest output if that is above 1."""
_SHARED = ("granularity", "operators", "symmetric", "target_cpu", "reduce_range", "calibration", "ignore")
"""Parameters that static quantization has, too."""
_TOLERATED_POWER = 1e-4
"""Power of the difference over that of the outputs beyond which the file is not the network that was trained. A number that stands just
between two others of its grid may be rounded either way, as kernels add up in another order; that costs a step here and there."""


def apply(network: Network, params: QuantizationAwareTraining, context: Context) -> Network:
    """Train the network under its own rounding; the result is the QDQ graph of the best state, which cannot be trained further.

    Raises:
        EngineError: Those of `static_quantization`; `unsupported_operator` where an operator has no trainable form; `quantization_mismatch`
            where ONNX Runtime computes something else from the file than was trained.
    """
    target = context.work / "quantized.onnx"
    train, held_out = _examples(params, context)
    shared = {name: getattr(params, name) for name in _SHARED}
    with context.part(0.0, 0.15):
        calibrated = Calibrated.of(network, StaticQuantization(**shared), context)
        chosen = calibrated.settle(context, target)
        few = agreement.examples(calibrated.feeds(1), calibrated.quantizer.example_bytes)
    scalings = calibrated.quantizer.scalings(chosen)
    rounding = Rounding.of(params, chosen, scalings)
    model = trainable(onnx.load(calibrated.prepared.path))
    first = Batch.of(train, np.arange(min(2, train.count)), context.input_names, torch.device("cpu"))
    norms = normalized(network.module, first.inputs)
    form = build(_copy(model), rounding, norms, hold_zeros=params.hold_zeros).to(context.device)
    context.phase("training")
    context.stage("quantized", form)
    with context.part(0.15, 0.95):
        best = _train(form, params, context, train, held_out)
    context.stage("trained", form)
    form.cpu()
    written = write_trained(
        model,
        chosen,
        values=form.values(),
        scalings={**scalings, **form.scalings()},
        scales=form.scales(),
        **rounding.grid,
    )
    onnx.save(written, target)
    grid = compare(form, target, few, context)
    context.report("grid", grid.document())
    context.report("best_epoch", best.epoch)
    context.report("kept", params.keep)
    context.report("states", {"static_quantization": best.first.document(), "best": best.found.document()})
    context.report("batch_norms_count", len(form.folded()))
    kept = "Kept" if params.keep == "best" else "The last state is kept; best was"
    context.show(Note(text=f"{kept}: the state after epoch {best.epoch}. On validation examples: {_words(best)}."))
    return calibrated.finish(context, target)


def _words(best: Best) -> str:
    """What static quantization and the best state came to."""
    named = {"static quantization": best.first, "best": best.found}
    return ", ".join(
        f"{name} {found.loss:.4g} loss" + ("" if found.right is None else f" and {100 * found.right:.2f} % right")
        for name, found in named.items()
    )


def _examples(params: QuantizationAwareTraining, context: Context) -> tuple[Examples, Examples]:
    """What is trained on, and what states are compared on."""
    if params.needs.labels:
        return context.held_out()
    context.split("train")
    assert context.data is not None
    return context.data.train(seed=context.seed), context.data.validation(seed=context.seed)


def _train(form: TrainingForm, params: QuantizationAwareTraining, context: Context, train: Examples, held_out: Examples) -> Best:
    if params.teacher is None:
        loss: Loss = context.loss(form, context.labelled("train"), params.label_smoothing)
    else:
        loss = taught(
            params.teacher,
            context,
            train,
            alpha=params.alpha,
            temperature=params.temperature,
            label_smoothing=params.label_smoothing,
        )
    few = Batch.of(train, np.arange(min(2, train.count)), context.input_names, context.device)
    if not loss(form(*few.inputs), few).requires_grad:
        raise EngineError(
            "not_trainable", "No output that is trained depends on a weight that can be trained.", hint="Use static_quantization."
        )
    best = Best(form, held_out, loss, context)
    learning = 0.0 if params.batch_norm == "frozen" else params.freeze_batch_norm_after
    last = int(learning * iterations_of(params, train.count))

    def freeze(moment: Moment) -> None:
        if moment.iteration == last:
            _freeze(form)

    if last == 0:
        _freeze(form)
    hooks = Hooks(on_step=(freeze,), on_epoch=(best.after_epoch,), memory=best.memory)
    context.train(form, params, loss=loss, hooks=hooks, examples=train)
    if params.keep == "best":
        best.restore(form)
    return best


def _freeze(form: TrainingForm) -> None:
    for layer in form.folded():
        layer.frozen.fill_(True)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


@dataclass(frozen=True)
class Grid:
    """How far the file is from what was trained, ONNX Runtime computing it in float."""

    examples_count: int
    largest: float
    equal: float
    power: float

    def document(self) -> JsonObject:
        """As it stands in the step's report."""
        return {
            "examples_count": self.examples_count,
            "largest_difference": self.largest,
            "equal_outputs_ratio": self.equal,
            "difference_power_ratio": self.power,
        }


@torch.no_grad()
def compare(form: TrainingForm, path: Path, feeds: Sequence[Feed], context: Context) -> Grid:
    """Run the module, on the CPU, and the file, without the runtime's optimizations, on the same examples.

    Raises:
        EngineError: `quantization_mismatch` where they differ by more than single numbers rounded the other way.
    """
    session = runtime.open_session(path, threads=context.threads, optimized=False, frugal=True)
    largest, power, signal = 0.0, 0.0, 0.0
    equal, total, count = 0, 0, 0
    form.eval()
    for feed in feeds:
        inputs = [torch.from_numpy(np.require(feed[name], requirements=("C", "W"))) for name in context.input_names]
        count += len(inputs[0])
        for own, theirs in zip(as_list(form(*inputs)), runtime.run(session, feed), strict=True):
            left, right = own.cpu().numpy().astype(np.float64), theirs.astype(np.float64)
            finite = np.isfinite(left) & np.isfinite(right)
            difference = np.abs(left - right)[finite]
            largest = max(largest, float(difference.max(initial=0)))
            equal += int((difference <= EXACT * max(1.0, float(np.abs(right[finite]).max(initial=0)))).sum())
            equal += int((left[~finite] == right[~finite]).sum())
            total += left.size
            power, signal = power + float(np.square(difference).sum()), signal + float(np.square(right[finite]).sum())
    found = Grid(count, largest, equal / max(1, total), power / max(signal, 1e-30))
    if found.power > _TOLERATED_POWER:
        raise EngineError(
            "quantization_mismatch",
            f"ONNX Runtime computes something else from the quantized file than was trained: outputs differ by up to {largest:.3g}.",
            hint="Use static_quantization, or keep parts of the network in float with `ignore`.",
            category="internal",
            details=found.document(),
        )
    return found
