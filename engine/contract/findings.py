"""What is wrong with a document, in the words of this service: where, a stable code, a sentence, and what to do.

pydantic finds it; its sentences and the names of its branches stay inside.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from engine.contract.params import Params
from engine.contract.sentences import MOST_NAMES, SHOWN_CHARACTERS, in_quotes, in_words, sentence, suggestion

MOST_PROBLEMS = 100
"""Problems of a document that are listed; more of them are counted."""


class Problem(Params):
    """One thing wrong with a document: a JSON pointer, a code, a sentence, and what to do."""

    pointer: str
    code: str
    detail: str
    hint: str | None = None


class Problems(ValueError):
    """Problems between fields, raised by a validator that sees more than one field."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(f"{each.detail}; {each.hint}" if each.hint else each.detail for each in problems))
        self.problems = tuple(problems)


def problems_of(error: ValidationError, model: type[BaseModel], document: Any) -> list[Problem]:
    """Everything that is wrong with a document, which was validated as `model`: one entry a place.

    Of more than `MOST_PROBLEMS` the first ones are listed, and the last entry counts the others.
    """
    found = error.errors(include_url=False)
    stated = [problem for item in found[:MOST_PROBLEMS] for problem in _stated(item, document)]
    listed: dict[str, Problem] = {}
    for item in found[:MOST_PROBLEMS]:
        if not isinstance(item.get("ctx", {}).get("error"), Problems):
            problem = _problem(item, model, document)
            before = listed.get(problem.pointer)
            listed[problem.pointer] = problem if before is None else _one_of(before, problem)
    # A list is reported as too short where the entry that is wrong was left out of it.
    inner = [p for p in listed.values() if not (p.code == "too_short" and any(q.startswith(f"{p.pointer}/") for q in listed))]
    return bounded([*inner, *stated], more=len(found[MOST_PROBLEMS:]))


def bounded(problems: list[Problem], *, more: int = 0) -> list[Problem]:
    """The first `MOST_PROBLEMS` problems, the last of them the number of those that are left out, `more` included."""
    if len(problems) + more <= MOST_PROBLEMS:
        return problems
    listed = problems[: MOST_PROBLEMS - 1]
    detail = f"{len(problems) + more - len(listed)} further problems are not listed"
    return [*listed, Problem(pointer="", code="more_problems", detail=detail)]


def pointer(parts: Iterable[int | str]) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def _stated(item: ErrorDetails, document: Any) -> list[Problem]:
    """What a validator of ours found."""
    cause = item.get("ctx", {}).get("error")
    base = pointer(_place(item, document))
    found = cause.problems if isinstance(cause, Problems) else ()
    return [Problem(pointer=base + each.pointer, code=each.code, detail=each.detail, hint=each.hint) for each in found]


def _problem(item: ErrorDetails, model: type[BaseModel], document: Any) -> Problem:
    """What pydantic found, in our words."""
    place = _place(item, document)
    detail, hint = sentence(item)
    if item["type"] == "extra_forbidden":
        detail = f"unknown field {in_quotes(str(place[-1]))}"
        hint = _known_field(str(place[-1]), model, document, place[:-1])
    elif item["type"].startswith("union_tag"):
        name = str(item["ctx"]["discriminator"]).strip("'").removesuffix("()")
        if not name.startswith("_"):
            place.append(name)
        value, known = item["input"], sorted(_tags(item, model, document, place[:-1], name))
        given = value.get(name) if isinstance(value, dict) else value
        detail = f"`{name}` is required" if item["type"] == "union_tag_not_found" else f"there is no {name} {in_words(given)}"
        hint = suggestion(str(given), known, kind=f"{name}s") if given is not None else f"{name}s: {', '.join(known[:MOST_NAMES])}"
    elif item["type"] == "missing" and place and (field := str(place[-1])) in ("model", "dataset"):
        hint = f"upload one with POST /v1/{field}s and name the id that it answers"
    elif item["type"] == "model_attributes_type" and isinstance(item["input"], str):
        hint = "write an object, such as {method: " + item["input"][:SHOWN_CHARACTERS] + "}" if _is_name(item["input"]) else None
    return Problem(pointer=pointer(place), code=item["type"], detail=detail, hint=hint)


def _place(item: ErrorDetails, document: Any) -> list[int | str]:
    """Where in the document a finding lies; names of the branches that pydantic tried stand in no document."""
    place: list[int | str] = []
    at = document
    for index, part in enumerate(item["loc"]):
        if part in at if isinstance(at, dict) else isinstance(at, list | tuple) and isinstance(part, int) and part < len(at):
            at = _inside(at, part)
        elif index < len(item["loc"]) - 1 or item["type"] not in ("missing", "extra_forbidden"):
            continue
        place.append(part)
    return place


def _one_of(first: Problem, second: Problem) -> Problem:
    """What to say of a place that suits none of the several forms it may have: a fault in the form that was meant, or all forms."""
    wrong_form = [problem.code.endswith("_type") for problem in (first, second)]
    if wrong_form == [True, True]:
        (expected, _, got), (other, _, _) = (p.detail.partition(" is expected") for p in (first, second))
        return (
            first
            if other in expected
            else Problem(pointer=first.pointer, code=first.code, detail=f"{expected} or {other} is expected{got}")
        )
    return second if wrong_form[0] else first


def _known_field(name: str, model: type[BaseModel], document: Any, place: Sequence[int | str]) -> str | None:
    """The field that an unknown one was meant to be: beside it, or of the same name elsewhere in the document."""
    fields = {field for each in _models_at(model, document, place) for field in each.model_fields}
    if not place and not difflib.get_close_matches(name[:SHOWN_CHARACTERS], fields, n=1):
        for outer, info in model.model_fields.items():
            if any(name in each.model_fields for each in _models(info.annotation) if "method" not in each.model_fields):
                return f"did you mean `{outer}.{name}`?"
    return suggestion(name, fields, kind="known fields")


def _models_at(model: type[BaseModel], document: Any, place: Sequence[int | str]) -> list[type[BaseModel]]:
    """The models that a place of the document may be."""
    found: list[type[BaseModel]] = [model]
    at = document
    for part in place:
        annotations = [each.model_fields[part].annotation for each in found if isinstance(part, str) and part in each.model_fields]
        at = _inside(at, part)
        candidates = [each for annotation in annotations for each in _models(annotation)] if annotations else found
        chosen = [each for each in candidates if _may_be(each, at)]
        found = chosen or candidates
    return found


def _inside(value: Any, part: int | str) -> Any:
    if isinstance(value, dict):
        return value.get(part)
    return value[part] if isinstance(value, list | tuple) and isinstance(part, int) and part < len(value) else None


def _may_be(model: type[BaseModel], value: Any) -> bool:
    """False where a field of the model allows other words only."""
    if not isinstance(value, dict):
        return True
    fixed = ((name, get_args(info.annotation)) for name, info in model.model_fields.items() if get_origin(info.annotation) is Literal)
    return all(value[name] in words for name, words in fixed if isinstance(value.get(name), str) and len(words) == 1)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every model inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _tags(item: ErrorDetails, model: type[BaseModel], document: Any, place: Sequence[int | str], name: str) -> set[str]:
    """The words that choose among the models of a place."""
    candidates = _models_at(model, document, place)
    found = {word for each in candidates if name in each.model_fields for word in get_args(each.model_fields[name].annotation)}
    return found or set(re.findall(r"'([^']*)'", item["ctx"].get("expected_tags", "")))


def _is_name(text: str) -> bool:
    return re.fullmatch(r"[a-z][a-z0-9_]{0,62}", text) is not None
