"""Static int8 with NNCF's own tools, as its manual says: `python plain_nncf.py NETWORK.onnx DATA.npz OUTPUT.onnx`, timed from outside."""

import sys

import nncf
import numpy as np
import onnx

BATCH = 32


def main() -> None:
    network, data, output = sys.argv[1:4]
    with np.load(data) as arrays:
        images = (arrays["x_train"].astype(np.float32) / 255 - 0.1307) / 0.3081
    batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    calibration = nncf.Dataset(batches, lambda batch: {"input": batch})
    onnx.save(nncf.quantize(onnx.load(network), calibration, subset_size=len(batches)), output)


if __name__ == "__main__":
    main()
