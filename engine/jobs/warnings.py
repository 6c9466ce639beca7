"""What a user should know about a result beside its figures, as warnings of the job."""

from __future__ import annotations

from collections.abc import Mapping

from engine.contract.figures import Result
from engine.contract.method import MethodParams
from engine.formats.onnx.one_file import settings_of
from engine.jobs.inputs import JobInputs
from engine.jobs.other_cpu import differing
from engine.jobs.recorder import Recorder
from engine.measuring.examiner.messages import Score
from engine.methods.quantization.tries import far_from

SMALL_SPLIT = 1000
"""With fewer examples, a change of accuracy of about a point is within the noise."""


def about_examples(recorder: Recorder, inputs: JobInputs, score: Score) -> None:
    """How far the examples carry that `score`, the examiner's answer, was measured on."""
    examples = score.examples_count
    if inputs.data is None:
        recorder.warn("random_inputs", "There is no dataset: fidelity to the original was measured on random inputs, which says little.")
    elif examples < SMALL_SPLIT:
        points = float(f"{100 / examples:.2g}")
        recorder.warn("small_test_split", f"Only {examples} examples were scored: one of them is {points:g} points of accuracy.")
    if settings := settings_of(inputs.onnx):
        recorder.warn(
            "settings_left_out",
            f"The uploaded file holds {len(settings)} settings; this job reads the one that it runs as, {settings[0]!r}. "
            "For another one, promote it to a model of its own.",
            settings=list(settings),
        )
    for target, reason in score.unused_targets.items():
        recorder.warn("labels_unused", f"The target {target!r} was not used: {reason}.", target=target)
    for note in score.notes:
        recorder.warn("task_inferred", note)
    if score.near_chance and not inputs.untrained:
        recorder.warn(
            "baseline_near_chance",
            f"The uploaded model does no better on these examples than answers that do not look at them: {'; '.join(score.near_chance)}. "
            "Figures that compare with it say little. Check the preprocessing (scale, mean, std, layout) and the order of the labels.",
        )


def about_step(
    recorder: Recorder, step: MethodParams, index: int, before: Mapping[str, float | None], after: Mapping[str, float | None]
) -> None:
    """Rounding without training that changed more than a point, which no accuracy target has an eye on.

    Args:
        recorder: Takes the warning.
        step: What was done.
        index: Which step it was.
        before: Metrics of the network that the step was given.
        after: Metrics of the one that it returned.
    """
    if step.family() != "quantization" or step.needs.trainable:
        return
    far = far_from(before, after)
    if not far:
        return
    figures = "; ".join(f"{key} {'unknown' if value is None else f'{value:.4g}'}" + _from(before.get(key)) for key, value in far.items())
    remedy = (
        "No kind of int8 that was tried comes closer; quantization_aware_training or weight_only_quantization may."
        if step.wire_name() == "int8_quantization"
        else "`quantize: int8` (the method int8_quantization) tries several kinds and keeps one that stays within a point, if there is one."
    )
    recorder.warn(
        "quantized_too_far",
        f"{step.title} changed what the network answers by more than a point: {figures}. {remedy}",
        step_index=index,
        metrics=dict(far),
    )


def _from(value: float | None) -> str:
    return "" if value is None else f" instead of {value:.4g}"


def about_result(recorder: Recorder, inputs: JobInputs, step_index: int, result: Result) -> None:
    """Zeros that do not make faster, a slower network, and outputs that are unlike the original's, in the state after a step."""
    effects = [step.effect for step in inputs.spec.steps[: step_index + 1]]
    warned = any(warning.code == "no_dense_speedup" for warning in recorder.warnings)
    zeros = any(e.file_size == "only_compressed" for e in effects) and not any(e.dense_latency == "faster" for e in effects)
    if zeros and not warned:
        recorder.warn(
            "no_dense_speedup",
            "Zero weights make the compressed file smaller, not the network faster: dense kernels multiply by them all the same.",
        )
    _about_other_cpu(recorder, result)
    first = result.first
    if first.verdict.speed == "slower":
        before, after = result.baseline.latency_ms, first.figures.latency_ms
        recorder.warn(
            "latency_regressed",
            f"The result is slower than the original: {after.typical:.3g} ms instead of {before.typical:.3g} ms"
            f" (batch {after.batch_size}, {after.threads} thread(s), {after.runtime}).",
        )
    stored, uploaded = first.figures.file_bytes, result.baseline.file_bytes
    if any(e.file_size == "smaller" for e in effects) and stored > uploaded:
        recorder.warn(
            "file_larger",
            f"The file is larger than the uploaded one: {stored} bytes instead of {uploaded}. What the format says about each layer takes more than its weights save.",
        )
    sqnr = first.figures.metrics.get(f"{inputs.split}.sqnr_db")
    if sqnr is not None and sqnr < 0 and not inputs.untrained:
        recorder.warn("low_fidelity", f"The outputs differ from the original's by more than their own size (SQNR {sqnr:.1f} dB).")


def _about_other_cpu(recorder: Recorder, result: Result) -> None:
    """Settings whose accuracy depends on the kind of processor."""
    for item in result.settings:
        if item.other_cpu is None:
            continue
        name, where = item.setting.name, item.other_cpu.kind.replace("_vnni", "")
        suffix = f" ({name})" if name else ""
        if item.other_cpu.how == "unknown":
            recorder.warn(
                "other_cpu_unknown",
                f"Some 8-bit operators may saturate on processors without VNNI, which cannot be tried here{suffix}; "
                "target_cpu: portable avoids it.",
                setting=name,
            )
        found = differing(item.figures.metrics, item.other_cpu)
        if found:
            figures = "; ".join(f"{key} {here:.4g} here, {there:.4g} there" for key, (here, there) in found.items())
            recorder.warn(
                "accuracy_depends_on_cpu",
                f"On a processor {where} VNNI this file gives other answers{suffix}: {figures}. Use target_cpu: portable for one that does not.",
                setting=name,
                metrics={key: list(pair) for key, pair in found.items()},
            )
