"""The voice activity detector silero on real speech, frame by frame with its state handed on."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from engine.contract.errors import EngineError

RATE, FRAME, CONTEXT = 16_000, 512, 64
LARGEST_DIFFERENCE = 0.05
LEVELS = (1.0, 0.3, 0.1, 0.03)
"""Factors on the samples: faint speech is where small errors tell."""


def probabilities(file: Path, samples: np.ndarray) -> np.ndarray:
    """The probability of speech in each frame."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    state, before = np.zeros((2, 1, 128), np.float32), np.zeros(CONTEXT, np.float32)
    found = []
    for start in range(0, len(samples) - FRAME + 1, FRAME):
        frame = samples[start : start + FRAME]
        feed = {"input": np.concatenate([before, frame])[None], "state": state, "sr": np.array(RATE, np.int64)}
        output, state = session.run(None, feed)
        before = frame[-CONTEXT:]
        found.append(float(output[0, 0]))
    return np.array(found)


def read(recording: Path) -> np.ndarray:
    """Raw 16-bit samples at 16 kHz (`*.8k.raw`: at 8 kHz, each sample twice) as numbers from -1 to 1."""
    samples = np.fromfile(recording, "<i2").astype(np.float32) / 32768
    return np.repeat(samples, 2) if recording.name.endswith(".8k.raw") else samples


def quantized(file: Path, recording: Path, build: Path) -> dict[str, Any]:
    """Dynamic int8 of the detector, and how far its probabilities are from the original's, also where the speaker is far away."""
    from benchmarks.quantized.__main__ import quantize

    target, samples = build / "silero.onnx", read(recording)
    said: dict[str, Any] = {"network": "silero", "method": "dynamic_quantization"}
    try:
        report = quantize(file, None, {"method": "dynamic_quantization"}, target)
    except EngineError as error:
        return {**said, "refused": error.code, "reason": error.message, "met": True}
    expected = {level: probabilities(file, level * samples) for level in LEVELS}
    found = {level: float(np.abs(expected[level] - probabilities(target, level * samples)).max()) for level in LEVELS}
    difference = max(found.values())
    return {
        **said,
        "share": target.stat().st_size / file.stat().st_size,
        "frames": len(expected[1.0]),
        "speech_frames": int((expected[1.0] > 0.5).sum()),
        "difference_by_level": {f"{level:g}": value for level, value in found.items()},
        "largest_difference": difference,
        "operators": report["operators"],
        "met": difference <= LARGEST_DIFFERENCE,
    }
