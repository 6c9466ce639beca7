"""What a person writes without this project: static int8 with ONNX Runtime's own tools. A process of its own, timed from outside.

    python plain_onnxruntime.py NETWORK.onnx DATA.npz OUTPUT.onnx [--bare | --whole]

It prepares and quantizes as ONNX Runtime's manual says, and nothing else; with `--bare` it leaves the preparation (fusing batch
normalizations, inferring shapes) out. With `--whole` it also does what a job of the service does: score both files on the test
split, time them in turns, and take their sizes after gzip.
"""

import gzip
import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

BATCH = 32


def images(stored: np.ndarray) -> np.ndarray:
    return (stored.astype(np.float32) / 255 - 0.1307) / 0.3081


class Reader(CalibrationDataReader):
    """The calibration examples, one batch after the other."""

    def __init__(self, stored: np.ndarray) -> None:
        self.batches = iter([stored[start : start + BATCH] for start in range(0, len(stored), BATCH)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"input": images(batch)}


def score(session: ort.InferenceSession, stored: np.ndarray, labels: np.ndarray) -> float:
    answers = [session.run(None, {"input": images(stored[i : i + 256])})[0].argmax(1) for i in range(0, len(stored), 256)]
    return float((np.concatenate(answers) == labels).mean())


def main() -> None:
    network, data, output = sys.argv[1:4]
    with np.load(data) as arrays:
        calibration, test, labels = arrays["x_train"], arrays["x_test"], arrays["y_test"]
    prepared = network
    if "--bare" not in sys.argv:
        prepared = output + ".prepared.onnx"
        quant_pre_process(network, prepared)
    quantize_static(
        prepared,
        output,
        Reader(calibration),
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    if "--whole" not in sys.argv:
        return
    sessions = [ort.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (network, output)]
    accuracy = [score(session, test, labels) for session in sessions]
    feed, times = {"input": images(test[:1])}, [[], []]
    for _ in range(100):
        for session, column in zip(sessions, times, strict=True):
            begin = time.perf_counter()
            session.run(None, feed)
            column.append(time.perf_counter() - begin)
    sizes = [len(gzip.compress(Path(path).read_bytes(), 6)) for path in (network, output)]
    print(json.dumps({"top1": accuracy, "p50_ms": [1e3 * float(np.median(column)) for column in times], "gzip_bytes": sizes}))


if __name__ == "__main__":
    main()
