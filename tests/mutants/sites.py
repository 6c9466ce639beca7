"""Where the code can be changed in a small way, and how (operators of Cosmic Ray)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import parso
from cosmic_ray.ast import Visitor
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

Position = tuple[int, int]


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    file: Path
    line: int
    operator: str
    occurrence: int
    text: str
    """The line as it is."""

    @property
    def name(self) -> str:
        """What stands in the list of survivors: the file, the kind of change and the line's text, which outlives moves."""
        return f"{self.file.as_posix()}: {self.operator}: {self.text}"

    def code(self) -> str:
        """The changed file."""
        changed = mutate_code(self.file.read_text(), _operator(self.operator), self.occurrence)
        assert changed is not None
        return str(changed)


def sampled(files: list[Path], count: int | None, rng: Random) -> list[Mutant]:
    """At most `count` places of the files, each with one of its changes; all places where no count is given."""
    places = [places for file in files for places in _places(file).values()]
    chosen = places if count is None or count >= len(places) else rng.sample(places, count)
    return [rng.choice(changes) for changes in chosen]


def _places(file: Path) -> dict[Position, list[Mutant]]:
    """Changes by the place that they are made in; annotations and docstrings say nothing that runs."""
    source = file.read_text()
    lines, silent = source.splitlines(), list(_silent(ast.parse(source)))
    finder = _Finder()
    finder.walk(parso.parse(source))
    found: dict[Position, list[Mutant]] = {}
    for name, positions in finder.positions.items():
        for occurrence, (start, end) in enumerate(positions):
            if not any(first <= start and end <= last for first, last in silent):
                found.setdefault(start, []).append(Mutant(file, start[0], name, occurrence, lines[start[0] - 1].strip()))
    return found


class _Finder(Visitor):  # type: ignore[misc]  # Cosmic Ray has no types
    """Numbers the places of every operator as `mutate_code` does."""

    def __init__(self) -> None:
        names = [name for name in operator_names() if name.startswith("core/") and "Decorator" not in name and "Variable" not in name]
        self._operators = {name.removeprefix("core/"): get_operator(name)() for name in names}
        self.positions: dict[str, list[tuple[Position, Position]]] = {name: [] for name in self._operators}

    def visit(self, node: Any) -> Any:
        for name, operator in self._operators.items():
            self.positions[name] += [(tuple(start), tuple(end)) for start, end in operator.mutation_positions(node)]
        return node


def _operator(name: str) -> Any:
    return get_operator(f"core/{name}")()


def _silent(tree: ast.AST) -> Iterator[tuple[Position, Position]]:
    """Spans of annotations, and of the guard that keeps imports for types out of the run."""
    for node in ast.walk(tree):
        parts: list[ast.AST | None] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parts.append(node.returns)
        elif isinstance(node, ast.arg | ast.AnnAssign):
            parts.append(node.annotation)
        elif isinstance(node, ast.keyword) and node.arg == "strict":
            parts.append(node.value)  # of two rows that are equally long: it guards against a defect
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            parts.append(node.test)
        elif (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.BinOp | ast.Subscript)
            and all(isinstance(target, ast.Name) and target.id[:1].isupper() and not target.id.isupper() for target in node.targets)
        ):
            parts.append(node.value)  # a name for a type
        for part in parts:
            if isinstance(part, ast.expr):
                assert part.end_lineno is not None
                assert part.end_col_offset is not None
                yield (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)
