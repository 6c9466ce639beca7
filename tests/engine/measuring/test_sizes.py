import gzip
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from engine.measuring import packing
from engine.measuring import sizes as module
from engine.measuring.measurement import FileSizes, file_sizes
from engine.measuring.sizes import Sizes


def test_a_content_is_compressed_once_and_a_changed_file_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, copy = tmp_path / "a", tmp_path / "b"
    content = np.random.default_rng(0).integers(0, 4, 5000).astype(np.uint8).tobytes()
    first.write_bytes(content)
    copy.write_bytes(content)
    done: list[Path] = []
    real = module.file_sizes

    def counted(path: Path) -> FileSizes:
        done.append(path)
        return real(path)

    monkeypatch.setattr(module, "file_sizes", counted)
    with ThreadPoolExecutor(1) as aside:
        found = Sizes(aside)
        found.begin(first)
        assert found.of(copy) == found.of(first) == (5000, len(gzip.compress(content, 6)))
        assert done == [first]
        copy.write_bytes(content[::-1])
        assert found.of(copy).file_bytes == 5000
        first.write_bytes(b"")
        assert found.of(first) == (0, len(gzip.compress(b"", 6)))
        assert done == [first, copy, first]


def test_a_large_file_is_of_the_size_that_gzip_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SMALL_FILE_BYTES", 1 << 17)
    monkeypatch.setattr(packing, "BLOCK_BYTES", 1 << 18)
    rng = np.random.default_rng(1)
    normal = rng.standard_normal(150_077).astype(np.float32)
    contents = {
        "normal": normal.tobytes(),
        "int8": np.clip(30 * rng.standard_normal(600_000), -127, 127).astype(np.int8).tobytes(),
        "sparse": np.where(rng.random(len(normal)) < 0.8, 0, normal).astype(np.float32).tobytes(),
        "codes": rng.integers(0, 16, 600_000).astype(np.uint8).tobytes(),
        "repeated": np.resize(normal[:5000], 3 * len(normal)).tobytes(),
    }
    contents["mixed"] = b"".join(content[: len(content) // 3 + 13] for content in contents.values())
    path = tmp_path / "file"
    for kind, content in contents.items():
        path.write_bytes(content)
        wanted = len(gzip.compress(content, 6))
        assert abs(file_sizes(path).gzip_bytes - wanted) <= 0.005 * wanted + 48 * (len(content) / packing.BLOCK_BYTES), kind


def test_only_blocks_without_repetitions_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    normal = rng.standard_normal(1 << 16).astype(np.float32).tobytes()
    repeated = np.resize(rng.standard_normal(5000).astype(np.float32), 1 << 16).tobytes()
    compressed: list[int] = []
    real = packing._all

    def counted(data: bytes, *, searching: bool) -> bytes:
        compressed.append(len(data))
        return real(data, searching=searching)

    monkeypatch.setattr(packing, "_all", counted)
    sampled = packing.block_bytes(normal)
    assert sum(compressed) <= len(normal)
    assert sampled == pytest.approx(len(gzip.compress(normal, 6)), rel=0.005)
    # What came before a block is matched in it.
    assert packing.block_bytes(repeated, repeated[-(1 << 15) :]) < packing.block_bytes(repeated) < 0.2 * len(repeated)
