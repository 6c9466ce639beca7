"""Static int8 with torchao's PT2E tools: `python plain_torchao.py NETWORK.pt DATA.npz OUTPUT.pt2 [--score]`, timed from outside.

The result is an exported program, which only torch runs; `--score` prints its top-1 on the test images.
"""

import sys

import numpy as np
import torch
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import X86InductorQuantizer, get_default_x86_inductor_quantization_config

from benchmarks.peers.residual_network import SIDE, residual_network

BATCH = 32


def tensors(stored: np.ndarray) -> torch.Tensor:
    return torch.from_numpy((stored.astype(np.float32) / 255 - 0.1307) / 0.3081)


@torch.no_grad()
def main() -> None:
    network, data, output = sys.argv[1:4]
    module = residual_network()
    module.load_state_dict(torch.load(network))
    shapes = ({0: torch.export.Dim("batch", min=2)},)
    example = (torch.zeros(2, 3, SIDE, SIDE),)
    exported = torch.export.export(module.eval(), example, dynamic_shapes=shapes).module()
    quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(exported, quantizer)
    with np.load(data) as arrays:
        calibration, test, labels = arrays["x_train"], arrays["x_test"], arrays["y_test"]
    for start in range(0, len(calibration), BATCH):
        prepared(tensors(calibration[start : start + BATCH]))
    converted = convert_pt2e(prepared)
    torch.export.save(torch.export.export(converted, example, dynamic_shapes=shapes), output)
    if "--score" in sys.argv:
        answers = [converted(tensors(test[start : start + 250])).argmax(1).numpy() for start in range(0, len(test), 250)]
        print(float((np.concatenate(answers) == labels).mean()))


if __name__ == "__main__":
    main()
