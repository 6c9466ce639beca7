"""Bodies that the documentation offers; those for jobs work on any classifier and labelled dataset, such as the demo's."""

from typing import Any

from api.examples import EXAMPLES

_INPUTS = {"model": EXAMPLES["model"], "dataset": EXAMPLES["dataset"]}

SPECS: dict[str, dict[str, Any]] = {
    "int8": {
        "summary": "int8, please",
        "value": {"model": EXAMPLES["model"], "quantize": "int8"},
    },
    "static_int8": {
        "summary": "Calibrated int8, at most one point of accuracy lost",
        "value": {
            **_INPUTS,
            "steps": [{"method": "static_quantization", "calibration": {"samples": 300}}],
            "constraints": {"accuracy": {"metric": "top1", "max_drop": 0.01}},
        },
    },
    "four_times_smaller": {
        "summary": "Prune channels, distil from the original, quantize",
        "value": {
            "name": "pruned, distilled, int8",
            **_INPUTS,
            "steps": [
                {"method": "structured_pruning", "pruning_ratio": 0.5},
                {"method": "distillation", "teacher": "baseline", "temperature": 4.0, "alpha": 0.9, "epochs": 1},
                {"method": "static_quantization"},
            ],
        },
    },
}

SPEC_YAML = f"""\
model: {EXAMPLES["model"]}
dataset: {EXAMPLES["dataset"]}
steps:
  - method: magnitude_pruning
    sparsity: 0.8
constraints:
  accuracy: {{metric: top1, max_drop: 0.01}}
"""
