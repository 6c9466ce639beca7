"""Which task each output of a network does: as its owner declared, or as outputs and targets show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine.contract.errors import EngineError
from engine.contract.heads import Head
from engine.contract.metadata import ModelMetadata, OutputMeaning
from engine.outputs.evidence import Array, Column, Output
from engine.tasks import Task, catalogue

UNNAMED = "y"
"""The targets of a dataset that do not name the output they belong to."""


@dataclass(frozen=True)
class Found:
    """How the outputs of a network are read."""

    heads: tuple[Head, ...]
    unused: Mapping[str, str] = field(default_factory=dict)
    """Targets that no output is compared with, and why."""
    notes: tuple[str, ...] = ()
    """What else the owner should know, in sentences."""


def outputs_of(names: Sequence[str], samples: Sequence[Array], inputs: Mapping[str, Array]) -> list[Output]:
    """The outputs of a network on some examples. An output without the examples in its first dimension is no less an output."""
    return [Output(name, index, sample, inputs, len(names) == 1) for index, (name, sample) in enumerate(zip(names, samples, strict=True))]


def find_heads(outputs: Sequence[Output], columns: Mapping[str, Column], declared: ModelMetadata) -> Found:
    """How outputs are read, given the targets of the dataset by name (`y`, `y.<output>`) and what the model's owner declared.

    Raises:
        EngineError: `metadata_invalid` where a declaration names an output or a target that is not there, or a task that cannot read it.
    """
    named = {output.name: output for output in outputs}
    meanings = {meaning.name: meaning for meaning in declared.outputs}
    _refuse_strangers(meanings, named, columns)
    task, notes = _task(declared.task)
    if task is not None and task.joint:
        column = columns.get(UNNAMED) or next(iter(columns.values()), None)
        return Found((_insist(task, outputs, column, OutputMeaning(name=task.name, task=task.name)),), {}, notes)
    search = _Search(columns, task)
    heads = [search.head(output, meanings.get(output.name)) for output in outputs]
    unused = {name: reason for name, reason in search.reasons.items() if name not in search.used}
    if task is not None and all(head.task != task.name for head in heads):
        notes = (*notes, f"No output is read as {task.name}, which the model's metadata say.")
    return Found(tuple(heads), unused, notes)


class _Search:
    """One pass over the outputs; every target is given to one of them."""

    def __init__(self, columns: Mapping[str, Column], task: Task | None) -> None:
        self._columns, self._task = columns, task
        self.used: set[str] = set()
        self.reasons = dict.fromkeys(columns, "no output of the network has this name")

    def head(self, output: Output, meaning: OutputMeaning | None) -> Head:
        """How one output is read."""
        column = self._column(output, meaning)
        if meaning is not None and (meaning.task is not None or meaning.class_axis is not None):
            head = _insist(_known(meaning.task or _by_rank(output)), [output], column, meaning)
        elif self._task is not None and (found := self._try(self._task, output, column, meaning or OutputMeaning(name=output.name))):
            head = found
        elif self._task is not None and output.alone:
            head = _insist(self._task, [output], column, OutputMeaning(name=output.name))
        else:
            head = self._inferred(output, column)
        if head.target is not None:
            self.used.add(head.target)
        return _as_declared(head, meaning)

    def _column(self, output: Output, meaning: OutputMeaning | None) -> Column | None:
        if meaning is not None and meaning.target is not None:
            return self._columns[meaning.target]
        own = self._columns.get(f"{UNNAMED}.{output.name}")
        return own or (None if UNNAMED in self.used else self._columns.get(UNNAMED))

    def _inferred(self, output: Output, column: Column | None) -> Head:
        tasks = catalogue().values()
        if column is not None:
            answers = {task.name: self._try(task, output, column, None) for task in tasks if not task.joint}
            fitting = next((head for head in answers.values() if head is not None), None)
            if fitting is not None:
                return fitting
            self.reasons[column.name] = _why_not(output, column, tasks)
        heads = (task.read([output], None, None) for task in tasks if not task.joint)
        return next(head for head in heads if isinstance(head, Head))

    def _try(self, task: Task, output: Output, column: Column | None, declared: OutputMeaning | None) -> Head | None:
        found = task.read([output], column, declared)
        if isinstance(found, str):
            return None
        return found.model_copy(update={"declared": declared is not None})


def _why_not(output: Output, column: Column, tasks: object) -> str:
    """The sentence that helps most: that of the task for which the output was made, as its shape shows."""
    if len(output.shape) == 1 and output.shape[0] > 1:
        if not column.whole and column.shape == ():
            return f"the {column.described} is for regression, and {output.described} gives {output.shape[0]} values an example, not one"
        likely = "multi_label" if len(column.shape) == 1 else "classification"
    else:
        likely = "binary" if len(output.shape) <= 1 else _by_rank(output)
    sentence = catalogue()[likely].read([output], column, None)
    assert isinstance(sentence, str)
    return sentence


def _by_rank(output: Output) -> str:
    """The task of outputs that hold class scores, as far as the number of dimensions shows it."""
    return {1: "classification", 2: "token_classification"}.get(len(output.shape), "segmentation")


def _insist(task: Task, outputs: Sequence[Output], column: Column | None, declared: OutputMeaning) -> Head:
    found = task.read(outputs, column, declared)
    if isinstance(found, str) and column is not None and declared.target is None:
        # The targets may be meant for another purpose; the declaration still says what the output is.
        alone = task.read(outputs, None, declared)
        found = alone if isinstance(alone, Head) and task.name == "fidelity" else found
    if isinstance(found, str):
        raise EngineError(
            "metadata_invalid",
            f"The model's metadata say that {declared.name!r} does {task.name}, but {found}.",
            hint="Correct metadata.task or metadata.outputs of the model, or the dataset's targets.",
        )
    return found.model_copy(update={"declared": True})


def _as_declared(head: Head, meaning: OutputMeaning | None) -> Head:
    if meaning is None:
        return head
    changes = {key: value for key in ("scale", "ignored") if (value := getattr(meaning, key)) is not None and head.decides}
    if meaning.scale is not None and head.threshold is not None:
        changes["threshold"] = 0.5 if meaning.scale == "probabilities" else 0.0
    return head.model_copy(update={"weight": meaning.weight, **changes})


def _task(stated: str | None) -> tuple[Task | None, tuple[str, ...]]:
    """The task that `metadata.task` names, also at the end of a longer name."""
    if stated is None:
        return None, ()
    known = catalogue()
    ends = sorted((name for name in known if stated == name or stated.endswith(f"_{name}")), key=len)
    if ends:
        return known[ends[-1]], ()
    return None, (f"metadata.task is {stated!r}, which is no task of this service; what the outputs mean was inferred.",)


def _known(name: str) -> Task:
    if name not in catalogue():
        raise EngineError("metadata_invalid", f"There is no task {name!r}.", hint=f"Tasks: {', '.join(catalogue())}.")
    return catalogue()[name]


def _refuse_strangers(meanings: Mapping[str, OutputMeaning], outputs: Mapping[str, Output], columns: Mapping[str, Column]) -> None:
    for name, meaning in meanings.items():
        if name not in outputs:
            raise EngineError(
                "metadata_invalid",
                f"The model's metadata describe the output {name!r}, which it does not have.",
                hint=f"Its outputs: {', '.join(outputs)}.",
            )
        if meaning.target is not None and columns and meaning.target not in columns:
            raise EngineError(
                "metadata_invalid",
                f"The output {name!r} is to be compared with {meaning.target!r}, which the dataset does not have.",
                hint=f"Its targets: {', '.join(columns)}.",
            )
