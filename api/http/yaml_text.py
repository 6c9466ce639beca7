"""Reading YAML from a stranger: the core schema of YAML 1.2 alone, bounded while it is read."""

import math
import re
import time
from typing import Any, ClassVar

import yaml

from api.http.document_bounds import MAX_DEPTH, MAX_VALUES, too_deep, too_many, unique
from core.errors import MalformedRequest

MAX_SECONDS = 5.0
"""Time that reading one document may take."""
_NUMBER = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+|[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_BOOLEAN = re.compile(r"true|True|TRUE|false|False|FALSE")


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema: `no` stays a word, a date stays a string, `1e-3` is a number; one key stands once; no other tags."""

    yaml_implicit_resolvers: dict[str, Any] = {}
    yaml_constructors: ClassVar = {}
    depth = 0
    nodes = 0
    deadline = math.inf

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Stop at the first value that lies too deep or is one too many, before the rest is read."""
        self.depth += 1
        self.nodes += 1
        if self.depth > MAX_DEPTH:
            raise too_deep()
        if self.nodes > MAX_VALUES:
            raise too_many(MAX_VALUES)
        if time.monotonic() > self.deadline:
            raise MalformedRequest(f"reading the document takes more than {MAX_SECONDS:g} seconds", hint="send it as JSON")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def mapping(self, node: yaml.Node) -> dict[str, Any]:
        """A mapping whose keys are strings."""
        if not isinstance(node, yaml.MappingNode):
            raise ValueError("a !!map tag stands before something else")
        pairs = [(self.construct_object(key, deep=True), self.construct_object(value, deep=True)) for key, value in node.value]
        if not all(isinstance(key, str) for key, _ in pairs):
            raise ValueError("a key is not a string")
        return unique(pairs)

    def sequence(self, node: yaml.Node) -> list[Any]:
        """A sequence, complete before it is handed on."""
        if not isinstance(node, yaml.SequenceNode):
            raise ValueError("a !!seq tag stands before something else")
        return [self.construct_object(item, deep=True) for item in node.value]

    def text(self, node: yaml.Node) -> str:
        """A scalar as it is written."""
        if not isinstance(node, yaml.ScalarNode):
            raise ValueError("a tag of a scalar stands before something else")
        return str(node.value)

    def number(self, node: yaml.Node) -> int | float:
        """An integer in decimal, octal or hexadecimal, or a float."""
        text = self.text(node)
        if not _NUMBER.fullmatch(text):
            raise ValueError(f"{text!r} is not a number")
        if text[:2] in ("0o", "0x"):
            return int(text, 0)
        return float(text) if set(text) & set(".eE") else int(text)

    def unknown(self, node: yaml.Node) -> Any:
        """Any other tag is refused."""
        raise ValueError(f"the tag {node.tag!r} has no place in a document of JSON types")

    def boolean(self, node: yaml.Node) -> bool:
        """True or false."""
        text = self.text(node)
        if not _BOOLEAN.fullmatch(text):
            raise ValueError(f"{text!r} is neither true nor false")
        return text.lower() == "true"


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(rf"^(?:{_BOOLEAN.pattern})$"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"^(?:{_NUMBER.pattern})$"), list("-+.0123456789"))
for _tag, _construct in {
    "null": lambda loader, node: None,
    "bool": _Loader.boolean,
    "int": _Loader.number,
    "float": _Loader.number,
    "str": _Loader.text,
    "seq": _Loader.sequence,
    "map": _Loader.mapping,
}.items():
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _construct)
_Loader.add_constructor(None, _Loader.unknown)


def from_yaml(text: str) -> Any:
    """The document of a YAML text. Raises `malformed_request`, also where it is too deep, too large, or takes too long."""
    try:
        loader = _Loader(text)
        loader.deadline = time.monotonic() + MAX_SECONDS
        node = loader.get_single_node()
        if node is None:
            return None
        _expanded_size(node, {})
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" at line {mark.line + 1} column {mark.column + 1}" if mark else ""
        hint = "indent with spaces" if "\\t" in (error.problem or "") else None
        raise MalformedRequest(f"the body is not YAML: {error.problem}{where}", hint=hint) from None
    except (yaml.YAMLError, ValueError) as error:
        raise MalformedRequest(f"the body is not usable YAML: {error}") from None


def _expanded_size(node: yaml.Node, known: dict[int, int]) -> int:
    """Number of values below `node` once every alias is written out; an alias is counted without being expanded."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    size = known.get(id(node), 0)
    if size < 0:
        raise MalformedRequest("an alias contains itself")
    if size == 0:
        known[id(node)] = -1
        children = [item for pair in node.value for item in pair] if isinstance(node, yaml.MappingNode) else node.value
        for child in children:
            size += _expanded_size(child, known)
            if size > MAX_VALUES:
                raise MalformedRequest(f"the document holds more than {MAX_VALUES} values once its aliases are expanded")
        known[id(node)] = size = size + 1
    return size
