"""What an operator of an exported program is called with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from engine.formats.pt2.program import Item, Program


class Arguments:
    """The arguments of one operator, by name."""

    def __init__(self, inputs: Item, program: Program, turned: Mapping[str, str]) -> None:
        """`turned` names the weights that some values are the transposed of."""
        self._inputs, self._program, self._turned = inputs, program, turned

    def turned(self, name: str) -> Arguments:
        """The arguments with a weight in the place of the transposed of it."""
        source = self._turned.get(self.source(name) or "")
        return Arguments({**self._inputs, name: {"as_tensor": {"name": source}} if source else {"as_none": True}}, self._program, {})

    def called(self, **names: str) -> Arguments:
        """The arguments under other names."""
        return Arguments({new: self._inputs[old] for new, old in names.items() if old in self._inputs}, self._program, {})

    def source(self, name: str) -> str | None:
        """The value that is given as an argument."""
        found: str | None = self._inputs.get(name, {}).get("as_tensor", {}).get("name")
        return found

    def is_none(self, name: str) -> bool:
        """Whether the argument is left out."""
        return "as_none" in self._inputs.get(name, {"as_none": True})

    def path(self, name: str) -> str | None:
        """The path of the parameter or buffer that is given, if it is one."""
        return self._program.lifted.get(self.source(name) or "")

    def state(self, name: str) -> Tensor | None:
        """Its values."""
        path = self.path(name)
        return None if path is None else self._program.state[path]

    def plain(self, name: str, default: Any) -> Any:
        """A number, a truth value or a list of them, or the default. Raises KeyError for one that is computed."""
        if name not in self._inputs:
            return default
        ((kind, content),) = self._inputs[name].items()
        if kind == "as_none":
            return None
        if kind in ("as_sym_ints", "as_sym_int"):
            return [item["as_int"] for item in content] if kind == "as_sym_ints" else content["as_int"]
        return content

    def rank(self, name: str) -> int:
        """Number of dimensions of a value."""
        return self._program.ranks[self.source(name) or ""]
