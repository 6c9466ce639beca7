"""What pydantic finds, in the words of the service."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from engine.contract.findings import MOST_PROBLEMS, Problem, Problems, problems_of
from engine.contract.params import Params
from engine.contract.sentences import suggestion


class Circle(Params):
    """One branch of a union that is told apart by a word."""

    shape: Literal["circle"] = "circle"
    radius: float = Field(gt=0)


class Square(Params):
    """The other branch."""

    shape: Literal["square"] = "square"
    side: Annotated[int, Field(ge=1, le=9)]
    corners: tuple[str, ...] = Field((), max_length=2)


class Frame(Params):
    """A part of the drawing."""

    width: int = 1
    border: Literal["thin", "thick"] | None = None


class Drawing(Params):
    """A document with what documents have: unions, lists, tables, parts, and a rule between fields."""

    parts: tuple[Annotated[Circle | Square, Field(discriminator="shape")], ...] = ()
    frame: Frame = Frame()
    owner: str | tuple[str, ...] = ""
    amounts: dict[str, int] = {}

    @model_validator(mode="after")
    def _not_both(self) -> "Drawing":
        if self.frame.width == 13:
            raise Problems([Problem(pointer="/frame/width", code="unlucky", detail="13 is refused", hint="take 12")])
        return self


def found(document: Any) -> list[tuple[str, str, str, str | None]]:
    """Everything that is wrong with a drawing."""
    with pytest.raises(ValidationError) as caught:
        Drawing.model_validate(document)
    return [(each.pointer, each.code, each.detail, each.hint) for each in problems_of(caught.value, Drawing, document)]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"parts": [{"shape": "circle", "radius": 0}]}, ("/parts/0/radius", "greater_than", "must be more than 0, got 0", None)),
        ({"parts": [{"shape": "square", "side": 10}]}, ("/parts/0/side", "less_than_equal", "must be at most 9, got 10", None)),
        ({"parts": [{"shape": "square"}]}, ("/parts/0/side", "missing", "is required", None)),
        ({"parts": [{"shape": "circel", "radius": 1}]}, ("/parts/0/shape", "union_tag_invalid", "there is no shape 'circel'", "did you mean 'circle'?")),
        ({"parts": [{}]}, ("/parts/0/shape", "union_tag_not_found", "`shape` is required", "shapes: circle, square")),
        ({"parts": [{"shape": "square", "side": 1, "radius": 2}]}, ("/parts/0/radius", "extra_forbidden", "unknown field 'radius'", "known fields: corners, shape, side")),
        ({"parts": [{"shape": "square", "side": 1, "corners": ["a", "b", "c"]}]}, ("/parts/0/corners", "too_long", "at most 2 entries are allowed, got 3", None)),
        ({"width": 3}, ("/width", "extra_forbidden", "unknown field 'width'", "did you mean `frame.width`?")),
        ({"frame": {"border": "thik"}}, ("/frame/border", "literal_error", "'thik' is none of 'thin', 'thick'", "did you mean 'thick'?")),
        ({"frame": {"width": "2k"}}, ("/frame/width", "int_parsing", "a whole number is expected, got '2k'", "write 2000: bytes without a unit")),
        ({"frame": {"width": "2 KiB"}}, ("/frame/width", "int_parsing", "a whole number is expected, got '2 KiB'", "write 2048: bytes without a unit")),
        ({"frame": {"width": 1.5}}, ("/frame/width", "int_from_float", "a whole number is expected, got 1.5", None)),
        ({"frame": [1]}, ("/frame", "model_type", "an object is expected, got a list", None)),
        ({"owner": 3}, ("/owner", "string_type", "a text or a list is expected, got 3", None)),
        ({"owner": ["a", 3]}, ("/owner/1", "string_type", "a text is expected, got 3", None)),
        ({"amounts": {"a/b~c": "x"}}, ("/amounts/a~1b~0c", "int_parsing", "a whole number is expected, got 'x'", None)),
        ({"frame": {"width": 13}}, ("/frame/width", "unlucky", "13 is refused", "take 12")),
        ([], ("", "model_type", "an object is expected, got a list", None)),
    ],
)  # fmt: skip
def test_one_problem(document: Any, expected: tuple[str, str, str, str | None]) -> None:
    """One place, one code, one sentence; branches that were tried in vain are not named."""
    problems = found(document)
    where = [each[0] for each in problems]
    assert expected in problems, problems
    assert where.count(expected[0]) == 1


def test_many_problems_are_counted() -> None:
    """The first ones are listed, the last entry counts the others."""
    problems = found({f"unknown{index}": 1 for index in range(300)})
    assert len(problems) == MOST_PROBLEMS
    assert problems[-1][2] == f"{300 - MOST_PROBLEMS + 1} further problems are not listed"


def test_a_strangers_text_is_cut() -> None:
    """A sentence repeats no more than a part of what was sent."""
    ((_, _, detail, hint),) = found({"frame": {"border": "x" * 10_000}})
    assert len(detail) < 200
    assert hint is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("prune", "did you mean 'soft_pruning'?"),
        ("distill", "did you mean 'distillation'?"),
        ("soft_prunning", "did you mean 'soft_pruning'?"),
        ("xyz", "known: distillation, soft_pruning"),
    ],
)
def test_suggestion(name: str, expected: str) -> None:
    """By spelling, by another form of a word, or everything."""
    assert suggestion(name, ["soft_pruning", "distillation"]) == expected
