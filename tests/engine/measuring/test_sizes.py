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


def test_a_large_file_is_a_stream_of_the_size_that_gzip_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    searched: dict[str, int] = {}
    for kind, content in contents.items():
        path.write_bytes(content)
        stream = b"".join(packing.packed(path))
        assert gzip.decompress(stream) == content
        assert len(stream) == file_sizes(path).gzip_bytes
        wanted = len(gzip.compress(content, 6))
        assert abs(len(stream) - wanted) <= 0.005 * wanted + 48 * (len(content) / packing.BLOCK_BYTES), kind
        searched[kind] = sum(packing.repeats(content[start : start + (1 << 18)]) for start in range(0, len(content), 1 << 18))
    assert searched["normal"] == searched["int8"] == 0
    assert min(searched[kind] for kind in ("sparse", "codes", "repeated", "mixed")) >= 1
