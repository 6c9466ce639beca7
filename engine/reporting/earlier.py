"""What reports of version 0.1 showed of their steps: read from the keys that the methods of that time wrote."""

from engine.contract.display import Column, Curve, Line, Shown, Table
from engine.contract.metric import Key, first_of
from engine.contract.report import StepReport


def shown_before(step: StepReport) -> tuple[Shown, ...]:
    """Stages, sensitivities, baselines and operators, as far as a step reported them."""
    found = step.report
    shown: list[Shown] = []
    stages = [row for row in found.get("stages", ()) if len(row) > 1]
    if stages:
        shown.append(Table.of("Stages", "stage", stages))
    if "sensitivity" in found:
        curves, metric = found["sensitivity"]["curves"].items(), first_of(f"validation.{name}" for name in found["sensitivity"]["unpruned"])
        if metric is not None:
            key = Key.parse(metric).name
            lines = tuple(Line(name=name, points=tuple((point["ratio"], point[key]) for point in curve)) for name, curve in curves)
            shown.append(
                Curve(title="Quality with one layer pruned", x=Column(title="pruned", unit="share"), y=Column.of(metric), lines=lines)
            )
    if "baselines" in found:
        shown.append(Table.of("Baselines", "baseline", found["baselines"]["rows"]))
    if "operators" in found:
        columns = (Column(title="operator"), Column(title="in int8"), Column(title="in floating point"))
        rows = tuple((name, count["int8"], count["float"]) for name, count in found["operators"].items())
        shown.append(Table(title="Operators that the runtime executes", columns=columns, rows=rows))
    return tuple(shown)
