"""Looking at a file costs what it may, and no more: what is left is the inspection's."""

import io
import time
import zipfile

import pytest

from engine.contract.errors import EngineError
from engine.files import effort
from engine.files.magic import check_file

MICROSECONDS = 250_000


def tiny_fields() -> bytes:
    """A model whose graph is four million empty names."""
    graph = b"\x12\x00" * 4_000_000
    length, coded = len(graph), b""
    while length:
        coded += bytes([length & 0x7F | (0x80 if length > 0x7F else 0)])
        length >>= 7
    return b"\x08\x08\x3a" + coded + graph + b"\x42\x02\x10\x11"


def members() -> bytes:
    """An archive of fifty thousand arrays that nobody asked for."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(50_000):
            archive.writestr(f"foreign_{number}.npy", b"")
    return file.getvalue()


@pytest.mark.parametrize(("make", "format"), [(tiny_fields, "onnx"), (members, "npz")])
def test_a_file_of_many_small_things_is_given_up_in_time(make: object, format: str) -> None:
    content = make()  # type: ignore[operator]
    began = time.perf_counter()
    with pytest.raises(effort.Unfinished), effort.at_most(MICROSECONDS, 2.0):
        check_file(io.BytesIO(content), format)
    assert time.perf_counter() - began < 2.5


def test_a_slow_medium_is_given_up_as_well() -> None:
    with pytest.raises(effort.Unfinished), effort.at_most(10**9, 0.05):
        check_file(io.BytesIO(tiny_fields()), "onnx")


def test_without_a_bound_the_file_is_seen_to_its_end() -> None:
    effort.spend(10**12)
    with pytest.raises(EngineError) as refused:
        check_file(io.BytesIO(members()[:-1]), "npz")
    assert refused.value.code == "truncated_upload"
