"""Files of every format with bytes changed, cut and doubled are read or refused with a code, never anything else. `make fuzz` draws many more."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.contract.errors import EngineError
from engine.contract.file_format import catalogue
from engine.contract.metadata import DatasetMetadata
from engine.data.loading import read_stored
from engine.files.magic import check_file
from tests.engine.data.test_audio_folder import tone, wav
from tests.engine.data.test_image_folder import archive, png
from tests.engine.data.test_image_masks import good as masks
from tests.engine.data.test_jsonl import TRAIN, lines, tokenizer
from tests.engine.formats.onnx.files import GOOD, npz_file, onnx_file

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "12"))
FILES: dict[str, Callable[[], bytes]] = {
    **GOOD,
    "image_folder": lambda: archive({"train/a/1.png": png(), "train/b/2.png": png()}),
    "image_masks": lambda: archive(masks(2)),
    "audio_folder": lambda: archive({"a/1.wav": wav(tone(500, 40)), "b/2.wav": wav(tone(900, 40))}),
    "csv": lambda: b"a,b,y\n1,2,0\n3,4,1\n",
    "jsonl": lambda: archive({"train.jsonl": lines(*TRAIN), "tokenizer.json": tokenizer()}),
    "npz": lambda: npz_file({"x_train": np.arange(7.0), "x_train_lengths": np.array([2, 5]), "y_train": np.arange(2)}),
    "onnx_zip": lambda: archive({"net.onnx": onnx_file(), "net.onnx.data": bytes(64)}),
    "huggingface": lambda: archive({"config.json": b'{"model_type": "bert"}', "model.safetensors": b"\x02\0\0\0\0\0\0\0{}"}),
    "architecture": lambda: b'{"name": "lenet_5"}',
}


def changed(data: bytes, edits: list[tuple[str, float, int]]) -> bytes:
    """The bytes with edits at relative places."""
    found = bytearray(data)
    for kind, place, value in edits:
        at = int(place * max(0, len(found) - 1))
        if kind == "set" and found:
            found[at] = value
        elif kind == "cut":
            del found[at : at + value]
        elif kind == "double":
            found[at:at] = found[at : at + value]
        else:
            found[at:at] = bytes([value]) * 4
    return bytes(found)


EDITS = st.lists(
    st.tuples(st.sampled_from(["set", "set", "set", "cut", "double", "insert"]), st.floats(0, 1), st.integers(0, 255)),
    min_size=1,
    max_size=4,
)


def test_every_format_is_drawn() -> None:
    assert set(FILES) == {name for name, format in catalogue().items() if format.readable}


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_changed_file_is_read_or_refused(name: str, tmp_path: Path) -> None:
    good = FILES[name]()
    attempts = iter(range(10**9))

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(EDITS)
    def look(edits: list[tuple[str, float, int]]) -> None:
        path = tmp_path / "file"
        path.write_bytes(changed(good, edits))
        found: Any = None
        try:
            with path.open("rb") as file:
                check_file(file, name)
            if catalogue()[name].holds == "dataset" and name != "parquet":  # Arrow may end the process: tests/engine/data/test_parquet.py
                found = read_stored(path, name, DatasetMetadata(), None, tmp_path / f"work{next(attempts)}")
        except EngineError as error:
            found = error
        assert not isinstance(found, EngineError) or (found.code and found.code != "internal_error")

    look()
