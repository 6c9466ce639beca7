"""What a person writes without this project: static int8 with ONNX Runtime's own tools. A process of its own, timed from outside.

    python plain_onnxruntime.py NETWORK.onnx DATA.npz OUTPUT.onnx [--bare | --whole]

It prepares and quantizes as ONNX Runtime's manual says, and nothing else; with `--bare` it leaves the preparation (fusing batch
normalizations, inferring shapes) out. With `--whole` it also does what a job of the service does: score both files on the test
split, time them in turns, and take their sizes after gzip.
"""

import json
import sys

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.peers.both_files import figures

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
    print(json.dumps(figures((network, output), images, test, labels)))


if __name__ == "__main__":
    main()
