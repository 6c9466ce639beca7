"""How `digits.npz` was drawn from MNIST: `python examples/make_digits.py mnist.npz`.

The first 1,000 training digits of each class (10,000 of the 60,000), in their original order, and all 10,000 test digits. The
archive is the usual one with the arrays x_train, y_train, x_test, y_test (uint8, 28×28). Pixels stay as they are;
`digits.metadata.json` says how they become the network's input.
"""

import io
import sys
import zipfile
from pathlib import Path

import numpy as np

PER_CLASS = 1000


def main() -> None:
    """Write `digits.npz` beside this file."""
    target = Path(__file__).with_name("digits.npz")
    with np.load(sys.argv[1], allow_pickle=False) as mnist:
        labels = mnist["y_train"]
        chosen = np.sort(np.concatenate([np.flatnonzero(labels == digit)[:PER_CLASS] for digit in range(10)]))
        arrays = {
            "x_train": mnist["x_train"][chosen],
            "y_train": labels[chosen].astype(np.uint8),
            "x_test": mnist["x_test"],
            "y_test": mnist["y_test"].astype(np.uint8),
        }
    # numpy's own writer deflates at level 6; the file is committed, so every byte counts.
    with zipfile.ZipFile(target, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy")
            archive.writestr(info, member.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)


if __name__ == "__main__":
    main()
