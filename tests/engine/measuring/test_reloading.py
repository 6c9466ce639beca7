"""A file is read again by a process of its own, which says what is wrong with it."""

from pathlib import Path

import numpy as np
import pytest

from engine.contract.errors import EngineError
from engine.formats.onnx import runtime
from engine.measuring.reloading import Reloading
from tests.engine.conftest import make_split
from tests.engine.small import IMAGE, cnn_file, trained_cnn


def test_a_file_is_written_as_it_was_read_and_a_damaged_one_is_refused_with_its_reason(tmp_path: Path) -> None:
    cnn_file(tmp_path / "net.onnx", trained_cnn(0))
    (tmp_path / "damaged.onnx").write_bytes((tmp_path / "net.onnx").read_bytes()[:-100])
    good, bad = (
        Reloading("onnx", tmp_path / f"{name}.onnx", tmp_path / f"{name}_again.onnx", tmp_path / name) for name in ("net", "damaged")
    )
    (given,) = good.signature().inputs
    assert given.shape == (None, *IMAGE)
    feed = {given.name: make_split(5, 2).images}
    first, again = (runtime.run(runtime.open_session(tmp_path / name, threads=1), feed)[0] for name in ("net.onnx", "net_again.onnx"))
    np.testing.assert_allclose(again, first, atol=1e-5)
    with pytest.raises(EngineError) as caught:
        bad.signature()
    assert caught.value.code == "truncated_upload"
