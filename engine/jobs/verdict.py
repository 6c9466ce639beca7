"""What the published files come to beside the baseline and the spec's targets."""

from __future__ import annotations

from collections.abc import Sequence

from engine.contract import constraints
from engine.contract.errors import JobError
from engine.contract.figures import Comparison, Figures, Judgement, Measured, Result
from engine.contract.spec import Constraints
from engine.jobs.publication import MeasuredFile


def judged(files: Sequence[MeasuredFile], baselines: Sequence[Figures], target: Constraints | None, split: str) -> Result:
    """Every setting beside the baseline, which was timed in turns with it: one entry of `baselines` for each of `files`."""
    settings = tuple(_judged(*pair, target, split) for pair in zip(files, baselines, strict=True))
    decisive = constraints.decisive(target, settings, split)
    return Result(baseline=baselines[0], settings=settings, judged_setting=decisive.setting.name)


def _judged(item: MeasuredFile, baseline: Figures, target: Constraints | None, split: str) -> Measured:
    figures, speeds = item.figures(), tuple(timing.speed for timing in item.timings)
    checks = constraints.check(target, baseline, figures, split)
    return Measured(
        setting=item.setting,
        figures=figures,
        comparison=Comparison.of(baseline, figures, speeds),
        verdict=Judgement(speed=speeds[0].verdict, outcome=constraints.outcome(checks), constraints=checks),
        other_cpu=item.other_cpu,
    )


def missed(result: Result, target: Constraints | None) -> JobError | None:
    """The error of a job that is to fail for a missed target; None where it need not."""
    judged = result.judged
    checks = judged.verdict.constraints
    if result.outcome != "constraints_not_met" or target is None or target.on_violation != "fail":
        return None
    return JobError.of(
        "constraints_not_met",
        "user",
        ("Missed: " if not judged.setting.name else f"Missed by {judged.setting.name}: ")
        + "; ".join(constraints.sentence(item) for item in checks if not item.met)
        + ".",
        hint="Loosen the constraint, or set on_violation: keep_best. The files of this job are kept.",
        details={"constraints": [item.model_dump() for item in checks]},
    )
