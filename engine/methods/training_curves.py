"""What a training measured after each epoch, as curves for the reports."""

from collections.abc import Iterator, Mapping, Sequence

from engine.contract.display import Column, Curve, Line
from engine.contract.metric import Key

_NOT_SHOWN = frozenset({"epoch", "learning_rate"})


def training_curves(records: Sequence[Mapping[str, float]]) -> Iterator[Curve]:
    """One diagram for each figure, with a line for each split; `records` hold an epoch each. Nothing of a single epoch.

    Where a step trained several times, its epochs are counted on.
    """
    names = [name for name in dict.fromkeys(name for record in records for name in record) if name not in _NOT_SHOWN]
    figures: dict[str, list[str]] = {}
    for name in names:
        figures.setdefault(name.partition(".")[2] or name, []).append(name)
    for figure, found in figures.items():
        metric = Key.parse(found[0]).metric
        y = Column(title=figure.replace("_", " ")) if metric is None else Column(title=metric.title, unit=metric.unit)
        lines = tuple(
            Line(
                name=name.partition(".")[0],
                points=tuple((float(number), float(record[name])) for number, record in enumerate(records, 1) if name in record),
            )
            for name in found
        )
        if any(len(line.points) > 1 for line in lines):
            yield Curve(title=f"Training: {y.title}", x=Column(title="epoch"), y=y, lines=lines)
