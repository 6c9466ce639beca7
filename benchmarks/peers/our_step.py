"""The quantization step of this project alone: `python our_step.py NETWORK.onnx DATA.npz OUTPUT.onnx METADATA.json THREADS [PARAMETERS]`.

PARAMETERS are those of the step, as JSON.
"""

import json
import sys
import tempfile
from pathlib import Path

from engine.contract.metadata import DatasetMetadata, ModelMetadata
from engine.data import load_dataset
from engine.formats import load_network
from engine.methods.quantization import static_quantization
from engine.methods.quantization.spec import StaticQuantization
from engine.methods.step import StepContext


def main() -> None:
    network_file, data_file, output, metadata, threads = sys.argv[1:6]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        network = load_network(Path(network_file), "onnx", ModelMetadata(), work)
        data = load_dataset(
            Path(data_file), "npz", DatasetMetadata.model_validate_json(Path(metadata).read_bytes()), network.signature, work / "data"
        )
        context = StepContext(seed=0, work=work, emit=lambda event: None, baseline=network, data=data, threads=int(threads))
        given = json.loads(sys.argv[6]) if len(sys.argv) > 6 else {"calibration": {"samples": 320}, "reduce_range": True}
        params = StaticQuantization.model_validate(given)
        result = static_quantization.apply(network, params, context.for_step(0, (0.0, 1.0)))
        result.write_onnx(Path(output))


if __name__ == "__main__":
    main()
