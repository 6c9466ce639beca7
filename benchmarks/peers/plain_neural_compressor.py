"""Static int8 with Neural Compressor's ONNX tools: `python plain_neural_compressor.py NETWORK.onnx DATA.npz OUTPUT.onnx`, timed from outside."""

import sys

import numpy as np
from onnx_neural_compressor import data_reader
from onnx_neural_compressor.quantization import QuantFormat, QuantType, config, quantize

BATCH = 32


class Reader(data_reader.CalibrationDataReader):
    """The calibration examples, one batch after the other."""

    def __init__(self, images: np.ndarray) -> None:
        self._images = images
        self.rewind()

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"input": batch}

    def rewind(self) -> None:
        self._batches = iter([self._images[start : start + BATCH] for start in range(0, len(self._images), BATCH)])


def main() -> None:
    network, data, output = sys.argv[1:4]
    with np.load(data) as arrays:
        images = (arrays["x_train"].astype(np.float32) / 255 - 0.1307) / 0.3081
    wanted = config.StaticQuantConfig(
        calibration_data_reader=Reader(images),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
        calibration_sampling_size=len(images),
    )
    quantize(network, output, wanted)


if __name__ == "__main__":
    main()
