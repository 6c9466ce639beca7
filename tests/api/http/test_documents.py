"""Documents of strangers: JSON and YAML as the same JSON types, bounded in every direction."""

import json
import time
from typing import Any

import pytest

from api.http import documents, yaml_text
from api.http.errors import RequestTooLarge, UnsupportedMediaType
from core.errors import MalformedRequest

YAML, JSON = "application/yaml", "application/json; charset=utf-8"
_LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(8)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.0e-3", 0.001),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("007", 7),
        ("0x1F", 31),
        ("0o17", 15),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("~", None),
        ("", None),
        ("2024-01-01", "2024-01-01"),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("50%", "50%"),
        (".inf", ".inf"),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("[1, 2]", [1, 2]),
        ("{a: 1}", {"a": 1}),
    ],
)
def test_yaml_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = documents.parse(f"key: {text}".encode(), YAML)["key"]
    assert found == value
    assert type(found) is type(value)


def test_aliases_share_a_value() -> None:
    text = b"a: &tuning {epochs: 3}\nb: *tuning\n"
    assert documents.parse(text, YAML) == {"a": {"epochs": 3}, "b": {"epochs": 3}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (_LAUGHS, "once its aliases are expanded"),
        ("a: &a [*a]", "contains itself"),
        ("[" * 100_000, "deeper than"),
        ("- " * 60_000, "deeper than"),
        ("[" + "1," * 50_000 + "]", "more than"),
        ("a: !!python/object/apply:os.system [x]", "tag"),
        ("a: !!binary aGk=", "tag"),
        ("a: !!int x", "not a number"),
        ("a: !!bool x", "neither true nor false"),
        ("a: !!map x", "map"),
        ("a: !!seq x", "seq"),
        ("a: !!str [x]", "scalar"),
        ("a: 1\na: 2", "stands twice"),
        ("1: 2", "not a string"),
        ("a: 1\n---\nb: 2", "another document"),
        ("{a", "line 1"),
        ("a: *x", "undefined alias"),
        ("a: \x07", "special characters"),
        ("a: 1e999", "not finite"),
        ("a: 99999999999999999999", "64 bits"),
        ('a: "\\ud800"', "surrogate"),
        ('a: "\\0"', "NUL"),
    ],
)
def test_yaml_that_is_refused(text: str, says: str) -> None:
    with pytest.raises(MalformedRequest, match=says):
        documents.parse(text.encode(), YAML)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"[" * 100_000, "deeper than"),
        (b"[" * 40 + b"]" * 40, "deeper than"),
        (b'{"a": 1, "a": 2}', "stands twice"),
        (b"NaN", "NaN is not"),
        (b"-Infinity", "Infinity is not"),
        (b"1e999", "not finite"),
        (b"9" * 5000, "usable JSON"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\u0000": 1}', "NUL"),
        (b"\xff", "UTF-8"),
        (b'{"a": }', "line 1 column 7"),
        (b"", "empty"),
        (b" ", "empty"),
        (b"[" + b"1," * 30_000 + b"1]", "more than 20000 values"),
        (b"[" + b"{}," * 30_000 + b"{}]", "more than 20000 values"),
        (b'{"' + b"k" * 1001 + b'": 1}', "more than 1000 characters"),
    ],
)
def test_json_that_is_refused(text: bytes, says: str) -> None:
    with pytest.raises(MalformedRequest, match=says):
        documents.parse(text, JSON)


def test_without_a_content_type_a_brace_means_json() -> None:
    assert documents.parse(b' {"a": 1}', None) == {"a": 1}
    assert documents.parse(b"a: 1", None) == {"a": 1}


def test_a_byte_order_mark_is_no_content() -> None:
    assert documents.parse(b"\xef\xbb\xbf{}", JSON) == {}


def test_other_media_types_are_refused_with_those_that_are_read() -> None:
    with pytest.raises(UnsupportedMediaType) as refused:
        documents.parse(b"a: 1", "application/x-www-form-urlencoded")
    assert "application/yaml" in (refused.value.hint or "")


def test_long_yaml_is_refused_before_it_is_read() -> None:
    with pytest.raises(RequestTooLarge):
        documents.parse(b"a: " + b"x" * documents.MAX_YAML_BYTES, YAML)


def test_a_key_that_stands_twice_among_many_is_found_at_once() -> None:
    """It was searched for in quadratic time, which took three minutes here."""
    pairs = [f'"k{number}":1' for number in range(95_000)]
    body = f"{{{','.join([*pairs, pairs[-1]])}}}".encode()
    began = time.perf_counter()
    with pytest.raises(MalformedRequest, match="'k94999' stands twice"):
        documents.parse(body, JSON, most_values=documents.MAX_METADATA_VALUES)
    assert time.perf_counter() - began < 5


def test_a_document_of_metadata_may_name_every_class() -> None:
    labels = [f"class {number}" for number in range(100_000)]
    assert documents.parse(json.dumps(labels).encode(), JSON, most_values=documents.MAX_METADATA_VALUES) == labels


def test_yaml_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_text, "MAX_SECONDS", 0.0)
    with pytest.raises(MalformedRequest, match="takes more than"):
        documents.parse(b"a: 1", YAML)
