"""The accuracy of a file with 8-bit products on the kind of processor that the job does not run on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from engine.contract.figures import OtherCpu
from engine.contract.metric import Key, catalogue
from engine.measuring import saturation
from engine.measuring.environment import has_safe_int8
from engine.measuring.examiner.client import Examiner
from engine.measuring.examiner.messages import Score, ScoreRequest

NOTICED = 0.005
"""Half a point of a share (accuracy, agreement, cosine) is a difference that a user should know of."""


def on_other_cpu(request: ScoreRequest, own: Score, examiner: Examiner, work: Path) -> OtherCpu | None:
    """Metrics of a file where VNNI is missing or, on a processor without it, where it is there; None for files without 8-bit products.

    Args:
        request: How the file was scored here.
        own: What that gave.
        examiner: The process that scores.
        work: Directory for the file that computes as the other processor does.
    """
    found = saturation.inspect(request.file)
    if found is None:
        return None
    here = has_safe_int8()
    kind = "without_vnni" if here else "with_vnni"
    count = len(found.products) + len(found.unknown)
    if not found.possible:
        return OtherCpu(kind=kind, how="by_construction", metrics=own.metrics)
    if not here:
        score = examiner.score(request.model_copy(update={"optimized": False}))()
        return OtherCpu(kind=kind, how="float_session", metrics=score.metrics, products_count=count)
    if found.unknown:
        return OtherCpu(kind=kind, how="unknown", products_count=count)
    target = work / "without_vnni.onnx"
    saturation.write_saturated(request.file, target)
    score = examiner.score(request.model_copy(update={"file": target, "optimized": False}))()
    target.unlink()
    return OtherCpu(kind=kind, how="emulated", metrics=score.metrics, products_count=count)


def differing(own: Mapping[str, float | None], other: OtherCpu) -> dict[str, tuple[float, float]]:
    """Shares that differ between the two kinds of processor by more than `NOTICED`: here and there."""
    shares = {name for name, metric in catalogue().items() if metric.unit == "share"} | {"cosine"}
    found = {}
    for key, there in other.metrics.items():
        here = own.get(key)
        if Key.parse(key).name in shares and here is not None and there is not None and abs(here - there) > NOTICED:
            found[key] = here, there
    return found
