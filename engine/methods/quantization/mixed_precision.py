"""Products stay in float, those that lose most to rounding first, until the accuracy target is met."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.contract.display import Table
from engine.contract.errors import EngineError
from engine.methods.quantization.tries import Try, attempt, publish
from engine.networks.network import Network

if TYPE_CHECKING:
    from engine.methods.quantization.static_quantization import Calibrated
    from engine.methods.step import StepContext


def search(calibrated: Calibrated, context: StepContext) -> Network:
    """The file with the fewest products in float that meets the target (without one: that is within a point of the original).

    The number of products is doubled until the target is met, and then bisected; each file is measured as the job measures what it
    publishes. Where none meets it, the nearest is kept.

    Raises:
        EngineError: `no_judge` outside of a job, where nothing can be measured.
    """
    judge = context.judge
    if judge is None:
        raise EngineError("no_judge", "Mixed precision measures files, which only a job can.", category="internal")
    ranked = calibrated.ranked(context)
    names = list(ranked)
    tries: dict[int, Try] = {}

    def near(count: int) -> bool:
        if count not in tries:
            kind = f"{count} in float"
            tries[count] = attempt(kind, lambda own: calibrated.write(own, own.work / "quantized.onnx", names[:count]), context)
        return bool(tries[count].near)

    failed, count = -1, 0
    most = max(0, len(names) - 1)
    while not near(count) and count < most:
        failed, count = count, min(most, max(1, 2 * count))
    while near(count) and count - failed > 1:
        middle = (failed + count) // 2
        if near(middle):
            count = middle
        else:
            failed = middle
    done = {number: item for number, item in tries.items() if item.error is None}
    if not done:
        error = tries[0].error
        assert error is not None
        raise error
    if count not in done or not near(count):
        count = max(done, key=lambda number: judge.quality(done[number].metrics))
    kept = done[count]
    ordered = [tries[number] for number in sorted(tries)]
    context.show(Table.of("Products left in float", "kind", [item.row(kept) for item in ordered]))
    result = publish(kept, context)
    context.report(
        "mixed_precision",
        {
            "left_in_float": names[:count],
            "sqnr_db": {name: round(value, 2) for name, value in ranked.items()},
            "tries": [item.document(kept) for item in ordered],
        },
    )
    return result
