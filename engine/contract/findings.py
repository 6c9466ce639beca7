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

MOST_PROBLEMS = 100
"""Problems of a document that are listed; more of them are counted."""
SHOWN_CHARACTERS = 80
"""How much of a text that a stranger chose is repeated in a sentence."""
_COMMON_STEM = 4
"""Letters at the beginning that make two words the same one in other forms, as prune and pruning are."""
_MOST_NAMES = 24
"""Names listed in one hint."""
_EXPECTED = {
    "string": "a text",
    "int": "a whole number",
    "float": "a number",
    "decimal": "a number",
    "bool": "true or false",
    "tuple": "a list",
    "list": "a list",
    "set": "a list",
    "frozen_set": "a list",
    "dict": "an object",
    "mapping": "an object",
    "model": "an object",
    "model_attributes": "an object",
    "dataclass": "an object",
    "none_required": "null",
    "datetime": "a time as RFC 3339 writes it, such as 2026-01-31T12:00:00Z",
}
_BOUNDS = {
    "greater_than": ("gt", "must be more than"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be less than"),
    "less_than_equal": ("le", "must be at most"),
}
_IDENTIFIERS = {"mdl": ("model", "POST /v1/models"), "ds": ("dataset", "POST /v1/datasets")}
_OTHERS = {"job": "job", "art": "artifact", "upl": "upload", "evt": "event", "key": "key"}
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


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


def suggestion(name: str, known: Iterable[str], *, kind: str = "known") -> str | None:
    """A hint that names what is close to `name`, by spelling or as another form of one of its words; else all that is known."""
    names = sorted(known)
    shown = name[:SHOWN_CHARACTERS].lower()
    close = difflib.get_close_matches(shown, names, n=1)
    if not close and len(shown) >= _COMMON_STEM:
        stem = shown[: max(_COMMON_STEM, len(shown) - 3)]
        close = [each for each in names if any(word.startswith(stem) for word in re.split(r"[_.]", each))][:4]
    if close:
        return f"did you mean {_any_of(close)}?"
    return f"{kind}: {', '.join(names[:_MOST_NAMES])}{', …' if len(names) > _MOST_NAMES else ''}" if names else None


def sentence(item: ErrorDetails) -> tuple[str, str | None]:
    """One finding of pydantic as a sentence, and what to do."""
    kind, value, context = item["type"], item.get("input"), item.get("ctx", {})
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"{words} {_shown(context[key])}, got {_shown(value)}", None
    if kind == "missing":
        return "is required", None
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"])
        return f"{_shown(value)} is none of {context['expected'].replace(' or ', ', ')}", _close(value, allowed)
    if kind == "string_pattern_mismatch":
        return _pattern(str(value), context["pattern"])
    if kind in ("string_too_short", "string_too_long", "too_short", "too_long"):
        bound = context["min_length" if kind.endswith("short") else "max_length"]
        what = "characters" if kind.startswith("string") else "entries"
        size = len(str(value)) if kind.startswith("string") else context.get("actual_length")
        return f"{'at least' if kind.endswith('short') else 'at most'} {bound} {what} are allowed, got {size or 'more'}", None
    base = kind.removesuffix("_type").removesuffix("_parsing").removesuffix("_from_float").removesuffix("_parsing_size")
    if base in _EXPECTED:
        return f"{_EXPECTED[base]} is expected, got {_shown(value)}", _as_number(value, whole=base == "int") if base in (
            "int",
            "float",
        ) else None
    if kind == "finite_number":
        return f"a finite number is expected, got {_shown(value)}", None
    detail, _, advice = item["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ").partition("; ")
    return detail.replace("Input should be", "should be"), advice or None


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
        detail = f"unknown field {_quoted(str(place[-1]))}"
        hint = _known_field(str(place[-1]), model, document, place[:-1])
    elif item["type"].startswith("union_tag"):
        name = str(item["ctx"]["discriminator"]).strip("'").removesuffix("()")
        if not name.startswith("_"):
            place.append(name)
        value, known = item["input"], sorted(_tags(item, model, document, place[:-1], name))
        given = value.get(name) if isinstance(value, dict) else value
        detail = f"`{name}` is required" if item["type"] == "union_tag_not_found" else f"there is no {name} {_shown(given)}"
        hint = suggestion(str(given), known, kind=f"{name}s") if given is not None else f"{name}s: {', '.join(known[:_MOST_NAMES])}"
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


def _pattern(value: str, pattern: str) -> tuple[str, str | None]:
    """What is wrong with a text that does not match; patterns of ids are explained."""
    wanted = next((prefix for prefix in _IDENTIFIERS if f"{prefix}_[" in pattern), None)
    if wanted is None:
        hint = f"write it in capitals, such as {value.upper()}" if value.upper() != value and re.match(pattern, value.upper()) else None
        return f"{_quoted(value)} does not match {pattern}", hint
    what, route = _IDENTIFIERS[wanted]
    kinds = {**{prefix: name for prefix, (name, _) in _IDENTIFIERS.items()}, **_OTHERS}
    other = kinds.get(value.partition("_")[0]) if "_" in value else None
    detail = f"{_quoted(value)} is the id of a {other}" if other and other != what else f"{_quoted(value)} is no id of a {what}"
    words = ", or `baseline`" if "baseline" in pattern else ""
    return detail, f"ids of {what}s begin with {wanted}_{words}: upload the file with {route} and name the id that it answers"


def _as_number(value: Any, *, whole: bool) -> str | None:
    """How a text with a unit or a percent sign would be written."""
    if not isinstance(value, str):
        return None
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(%|[kKmMgG]?i?)[bB]?\s*", value)
    if found is None:
        return None
    number, unit = float(found[1]), found[2].lower()
    if unit == "%":
        return None if whole else f"write {number / 100:g}: ratios are 0..1"
    return f"write {int(number * _UNITS[unit])}: bytes without a unit" if unit in _UNITS and whole else None


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


def _close(value: Any, known: Sequence[str]) -> str | None:
    close = difflib.get_close_matches(value[:SHOWN_CHARACTERS], known, n=1) if isinstance(value, str) else []
    return f"did you mean {close[0]!r}?" if close else None


def _any_of(names: Sequence[str]) -> str:
    quoted = [f"'{name}'" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def _is_name(text: str) -> bool:
    return re.fullmatch(r"[a-z][a-z0-9_]{0,62}", text) is not None


def _shown(value: Any) -> str:
    """A value in a sentence: numbers and short texts as they are, larger things by their kind."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)[:SHOWN_CHARACTERS]
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list | tuple) else "something else"


def _quoted(text: str) -> str:
    return repr(text[:SHOWN_CHARACTERS])
