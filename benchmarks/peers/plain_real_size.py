"""What a person writes to quantize a network of real size: `python plain_real_size.py NETWORK.onnx DATA.npz OUTPUT.onnx`.

ONNX Runtime's own tools, one example at a time as its examples do, and nothing else. A process of its own, timed from outside.
"""

import sys

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static


class Reader(CalibrationDataReader):
    """The calibration examples, one after the other."""

    def __init__(self, images: np.ndarray) -> None:
        self.examples = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self.examples, None)
        return None if image is None else {"input": image[None]}


def main() -> None:
    network, data, output = sys.argv[1:4]
    with np.load(data) as arrays:
        images = arrays["x_train"]
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(network, output, Reader(images), per_channel=True, **types)


if __name__ == "__main__":
    main()
