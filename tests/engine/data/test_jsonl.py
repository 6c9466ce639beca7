"""Texts reach the network as the numbers of its tokens, with the right targets beside them, and hostile tokenizers end in time."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordPiece
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from engine.contract.errors import EngineError
from engine.contract.metadata import DatasetMetadata
from engine.data import tokens
from engine.data.loading import load_dataset, read_stored
from engine.files.magic import check_file, sniff
from engine.jobs.dataset_inspection import inspect_dataset
from engine.networks.network import Signature, TensorSpec
from tests.engine.data.test_image_folder import archive

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "dog", "sat", "##s", "##ter", "run"]


def tokenizer(**changes: Any) -> bytes:
    """A small WordPiece tokenizer as the library saves it, truncation and padding switched on as trainers leave them."""
    made = Tokenizer(WordPiece({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = Lowercase(), Whitespace()
    made.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.enable_truncation(4)
    made.enable_padding(length=64)
    return json.dumps({**json.loads(made.to_str()), **changes}).encode()


def lines(*records: Any) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


def signature(*names: str, length: int | None = 8) -> Signature:
    return Signature(tuple(TensorSpec(name, (None, length), "int64") for name in names), (TensorSpec("y", (None, 2)),))


TRAIN = [
    {"text": "The cat sat", "label": "pos"},
    {"text": "dogs run", "label": "neg"},
    {"text": "the the the the the the the the cats", "label": "pos"},
]


def load(tmp_path: Path, data: bytes, wanted: Signature | None = None, **metadata: Any) -> Any:
    path = tmp_path / "lines"
    path.write_bytes(data)
    with path.open("rb") as file:
        check_file(file, "jsonl")
    work = tmp_path / f"work{len(list(tmp_path.iterdir()))}"
    read = read_stored if wanted is None else load_dataset
    return read(path, "jsonl", DatasetMetadata.model_validate(metadata), wanted, work)


def test_merges_are_not_left_out_by_chance(tmp_path: Path) -> None:
    made = Tokenizer(BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")], dropout=0.5))
    data = archive({"train.jsonl": lines({"text": "ab" * 100}), "tokenizer.json": made.to_str().encode()})
    assert load(tmp_path, data).splits["train"]["x"].tolist() == [[2] * 100]


def test_bytes_of_plain_lines(tmp_path: Path) -> None:
    data = lines({"text": "añ", "label": 1, "split": "train"}, {"text": "b", "label": 0, "split": "val"})
    assert sniff(data[:4096], None) == "jsonl"
    found = load(tmp_path, data, signature("x", length=4))
    assert found.split("train").batch([0])[0]["x"].tolist() == [[*"añ".encode(), 0]]
    assert found.split("validation").batch([0])[0]["x"].tolist() == [[98, 0, 0, 0]]
    assert found.split("train").batch([0])[1]["y"].tolist() == [1]
    moved = load(tmp_path, data, text={"offset": 3, "pad": 1, "length": 5})
    assert moved.splits["train"]["x"].tolist() == [[byte + 3 for byte in "añ".encode()] + [1, 1]]


def test_a_tokenizer_file_numbers_words_and_fills_the_inputs_of_the_network(tmp_path: Path) -> None:
    data = archive(
        {"set/train.jsonl": lines(*TRAIN), "set/test.jsonl": lines({"text": "cat", "label": "neg"}), "set/tokenizer.json": tokenizer()}
    )
    assert sniff(data[:4096], None) == "jsonl"
    found = load(tmp_path, data, signature("attention_mask", "input_ids", "token_type_ids"))
    assert found.classes == ("neg", "pos")
    inputs, targets = found.split("train").batch([0, 1, 2])
    assert inputs["input_ids"].tolist() == [[2, 4, 5, 7, 3, 0, 0, 0], [2, 6, 8, 10, 3, 0, 0, 0], [2, 4, 4, 4, 4, 4, 4, 3]]
    assert inputs["attention_mask"].tolist() == [[1] * 5 + [0] * 3, [1] * 5 + [0] * 3, [1] * 8]
    assert inputs["token_type_ids"].tolist() == [[0] * 8] * 3
    assert targets["y"].tolist() == [1, 0, 1]
    stored = load(tmp_path, data, text={"length": 6, "longer": "cut_start"})
    assert stored.splits["train"]["x"][2].tolist() == [2, 4, 4, 5, 8, 3]
    assert stored.notes == ("1 of 4 texts were cut to 6 tokens.",)
    assert load(tmp_path, data).splits["train"]["x"].shape == (3, 12)  # the longest text, although the file says 4 and 64


def test_pairs_of_texts_have_types(tmp_path: Path) -> None:
    data = archive(
        {
            "train.jsonl": lines({"a": "cat", "b": "the dog", "score": 0.5}, {"a": "dog", "b": "cat", "score": 1}),
            "tokenizer.json": tokenizer(),
        }
    )
    found = load(
        tmp_path,
        data,
        signature("ids", "kinds"),
        text={"text": "a", "pair": "b", "target": "score", "inputs": {"ids": "ids", "kinds": "types"}},
    )
    inputs, targets = found.split("train").batch([0])
    assert inputs["ids"].tolist() == [[2, 5, 3, 4, 6, 3, 0, 0]]
    assert inputs["kinds"].tolist() == [[0, 0, 0, 1, 1, 1, 0, 0]]
    assert targets["y"].tolist() == [0.5]
    with pytest.raises(EngineError, match="'kinds'"):
        load(tmp_path, data, signature("input_ids", "kinds"), text={"text": "a", "pair": "b"})


def test_targets_of_words_stand_at_their_first_token(tmp_path: Path) -> None:
    records = [
        {"text": ["cats", "sat"], "y": ["N", "V"]},
        {"text": ["dog"], "y": ["N"]},
        {"text": ["run", "the", "catster"], "y": ["V", "A", "N"]},
    ]
    data = archive({"train.jsonl": lines(*records), "tokenizer.json": tokenizer()})
    stored = load(tmp_path, data, text={"targets": "token", "length": 6})
    assert stored.classes == ("A", "N", "V")
    none = -100
    assert stored.splits["train"]["x"].tolist() == [[2, 5, 8, 7, 3, 0], [2, 6, 3, 0, 0, 0], [2, 10, 4, 5, 8, 3]]
    assert stored.splits["train"]["y"].tolist() == [[none, 1, none, 2, none, none], [none, 1] + [none] * 4, [none, 2, 0, 1, none, none]]
    numbers = load(tmp_path, lines({"text": [7, 8, 9], "y": [2, 0, 1]}, {"text": [5], "y": [1]}), text={"targets": "token"})
    assert numbers.splits["train"]["x"].tolist() == [[7, 8, 9], [5, 0, 0]]
    assert numbers.splits["train"]["y"].tolist() == [[2, 0, 1], [1, none, none]]


def test_the_next_token_is_the_target_but_not_padding(tmp_path: Path) -> None:
    stored = load(tmp_path, lines({"text": "abc"}, {"text": "d"}), text={"targets": "next_token", "length": 4})
    assert stored.splits["train"]["x"].tolist() == [[97, 98, 99, 0], [100, 0, 0, 0]]
    assert stored.splits["train"]["y"].tolist() == [[98, 99, -100, -100], [-100] * 4]


def test_targets_of_every_kind(tmp_path: Path) -> None:
    for values, expected in (
        (["b", "a"], [1, 0]),
        ([True, False], [1, 0]),
        ([0.5, 2], [0.5, 2.0]),
        ([[1, 0], [0, 1]], [[1, 0], [0, 1]]),
        ([3, 1], [3, 1]),
    ):
        stored = load(tmp_path, lines(*({"text": "a", "y": value} for value in values)))
        assert stored.splits["train"]["y"].tolist() == expected
        assert stored.splits["train"]["y"].dtype == (np.float32 if 0.5 in values else np.int64)
    assert load(tmp_path, lines({"text": "a", "y": "b"}, {"text": "a", "y": "a"}), labels=["b", "a"]).splits["train"]["y"].tolist() == [
        0,
        1,
    ]
    assert "y" not in load(tmp_path, lines({"text": "a"}, {"text": "b"})).splits["train"]


def test_the_inspection_shows_what_networks_may_ask_for(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(archive({"train.jsonl": lines(*TRAIN), "test.jsonl": lines(TRAIN[0]), "tokenizer.json": tokenizer()}))
    found = inspect_dataset(tmp_path / "a.zip", "jsonl", DatasetMetadata(), tmp_path / "w")
    assert [(column.name, column.shape) for column in found.columns][:2] == [("x", (None,)), ("x.input_ids", (None,))]
    assert found.histogram == {"train": {"neg": 1, "pos": 2}, "test": {"neg": 0, "pos": 1}}
    assert found.leaks[0].examples == ((0, 0),)


WRONG: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "no JSON": (lines({"text": "a"}) + b"{oops}\n", {}, "Line 2 of the file is not JSON"),
    "no object": (lines({"text": "a"}, [1]), {}, "Line 2 of the file is no object"),
    "a field twice": (lines({"text": "a"}) + b'{"text": "a", "text": "b"}\n', {}, "twice"),
    "NaN": (lines({"text": "a", "y": 1.0}) + b'{"text": "a", "y": NaN}\n', {}, "NaN is no JSON number"),
    "infinity": (lines({"text": "a", "y": 1.0}) + b'{"text": "a", "y": 1e999}\n', {}, "Line 2"),
    "no text": (lines({"text": "a"}, {"body": "b"}), {}, "Line 2 of the file has no text.*'text'"),
    "another kind of target": (
        lines({"text": "a", "y": "u"}, {"text": "b", "y": 1}),
        {},
        "Line 2 of the file has a target of another kind",
    ),
    "lists of other lengths": (lines({"text": "a", "y": [1, 2]}, {"text": "b", "y": [1]}), {}, "Line 2"),
    "a target that begins later": (
        lines({"text": "a"}, {"text": "b", "y": "u"}),
        {},
        "Line 2 of the file has the field 'y', which the first line lacks",
    ),
    "a missing target": (lines({"text": "a", "y": "u"}, {"text": "b"}), {}, "Line 2 of the file has no target"),
    "an empty text": (lines({"text": "a"}, {"text": ""}), {}, "Line 2 of the file holds no token"),
    "mixed texts": (lines({"text": "a"}, {"text": [1]}), {}, "Some lines"),
    "too long": (lines({"text": "abcd"}), {"text": {"length": 3, "longer": "refuse"}}, "4 values, more than 3"),
    "a strange split": (lines({"text": "a", "split": "dev"}), {}, "'dev'"),
    "no class": (lines({"text": "a", "y": "u"}), {"labels": ["v"]}, "'u'"),
    "negative numbers": (lines({"text": [3, -1]}), {}, "token number -1"),
    "too few targets": (lines({"text": [3, 1], "y": [1]}), {"text": {"targets": "token"}}, "1 targets for 2 tokens"),
    "no tokenizer": (lines({"text": "a"}), {"text": {"tokenizer": "file"}}, "no tokenizer.json"),
    "words without a tokenizer": (lines({"text": ["a", "b"]}), {}, "need a tokenizer file"),
    "texts with targets of tokens": (
        archive({"train.jsonl": lines({"text": "cat sat", "y": [0, 1]}), "tokenizer.json": tokenizer()}),
        {"text": {"targets": "token"}},
        "not stated",
    ),
    "no tokenizer in the file": (
        archive({"train.jsonl": lines({"text": "a"}), "tokenizer.json": b'{"model": {}}'}),
        {},
        "tokenizer failed",
    ),
    "a damaged tokenizer": (archive({"train.jsonl": lines({"text": "a"}), "tokenizer.json": b"\xff\xfe"}), {}, "not UTF-8"),
    "another file": (archive({"train.jsonl": lines({"text": "a"}), "model.py": b"x"}), {}, "'model.py'"),
    "two files of no split": (archive({"a.jsonl": lines({"text": "a"}), "b.jsonl": lines({"text": "a"})}), {}, "second file"),
    "nothing": (archive({"tokenizer.json": tokenizer()}), {}, "no lines"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(tmp_path: Path, name: str) -> None:
    data, metadata, message = WRONG[name]
    with pytest.raises(EngineError, match=message) as caught:
        load(tmp_path, data, **metadata)
    assert caught.value.code == "dataset_invalid"


def _with_pattern(pattern: str) -> bytes:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return tokenizer(pre_tokenizer=split)


def test_a_pattern_that_backtracks_is_refused_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_SECONDS", 0.5)
    started = time.monotonic()
    for pattern, text in (("(a+)+$", "a" * 40 + "b"), ("(x+x+)+y|(a{1,3000}){1,3000}b", ("a" * 3000 + "c") * 3000), ("(", "a")):
        with pytest.raises(EngineError, match="tokenizer") as caught:
            load(tmp_path, archive({"train.jsonl": lines({"text": text}), "tokenizer.json": _with_pattern(pattern)}))
        assert caught.value.code == "dataset_invalid"
    assert time.monotonic() - started < 30


def test_inflated_lines_and_endless_ones_are_refused(tmp_path: Path) -> None:
    import zipfile

    bomb = archive({"train.jsonl": b" " * (65 << 20)}, zipfile.ZIP_DEFLATED)
    for data, code in ((bomb, "decompression_limit_exceeded"), (b'{"text": "' + b"a" * (17 << 20), "dataset_invalid")):
        with pytest.raises(EngineError) as caught:
            load(tmp_path, data)
        assert caught.value.code == code


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from(["text", "y", "split"]), x),
    )
)
def test_any_line_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, drawn: Any) -> None:
    found: Any = None
    try:
        found = load(tmp_path_factory.mktemp("any"), lines({"text": "a", "y": 1}) + json.dumps(drawn).encode() + b"\n")
    except EngineError as error:
        found = error
    assert getattr(found, "code", "dataset_invalid") == "dataset_invalid"
