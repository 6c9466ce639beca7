"""What both plain scripts do with the original and with their result: score, time in turns, take the size after gzip.

It costs the scripts nothing that they do not import anyway.
"""

import gzip
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort


def figures(
    files: Sequence[str],
    images: Callable[[np.ndarray], np.ndarray],
    stored: np.ndarray,
    labels: np.ndarray,
    options: ort.SessionOptions | None = None,
) -> dict[str, Any]:
    """`top1`, `p50_ms` (batch 1, 100 calls) and `gzip_bytes` of every file; `images` makes inputs of stored examples."""
    sessions = [ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in files]
    accuracy = [_score(session, images, stored, labels) for session in sessions]
    feed, times = {"input": images(stored[:1])}, [[] for _ in files]
    for _ in range(100):
        for session, column in zip(sessions, times, strict=True):
            begin = time.perf_counter()
            session.run(None, feed)
            column.append(time.perf_counter() - begin)
    sizes = [len(gzip.compress(Path(path).read_bytes(), 6)) for path in files]
    return {"top1": accuracy, "p50_ms": [1e3 * float(np.median(column)) for column in times], "gzip_bytes": sizes}


def _score(session: ort.InferenceSession, images: Callable[[np.ndarray], np.ndarray], stored: np.ndarray, labels: np.ndarray) -> float:
    answers = [session.run(None, {"input": images(stored[i : i + 256])})[0].argmax(1) for i in range(0, len(stored), 256)]
    return float((np.concatenate(answers) == labels).mean())
