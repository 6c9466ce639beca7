import gzip
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from engine.measuring import sizes as module
from engine.measuring.measurement import FileSizes
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
