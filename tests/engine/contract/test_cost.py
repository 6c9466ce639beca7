"""Every method states what it costs; plan, estimate and progress bar ask it and nobody else."""

from typing import Any

import pytest

from engine.contract.cost import BACKWARD, OBSERVED, Cost, Facts
from engine.contract.method import MethodParams, catalogue

FACTS = Facts(train_examples=1000)


@pytest.mark.parametrize("method", catalogue().values(), ids=lambda method: method.wire_name())
def test_a_method_states_its_cost(method: type[MethodParams]) -> None:
    assert method.cost is not MethodParams.cost


@pytest.mark.parametrize(
    ("step", "trained", "read", "calibration"),
    [
        ({"method": "train", "epochs": 3}, 3000, 0, 0),
        ({"method": "train", "iterations": 20, "batch_size": 50}, 1000, 0, 0),
        ({"method": "distillation", "epochs": 3, "teacher": ["mdl_a", "mdl_b"]}, 3000, 2000, 0),
        ({"method": "distillation", "iterations": 4, "batch_size": 10}, 40, 40, 0),
        ({"method": "structured_pruning", "pruning_ratio": 0.5}, 0, 0, 0),
        ({"method": "structured_pruning", "finetune": {"epochs": 2}, "iterations": 3, "regularization": {"epochs": 1}}, 7000, 0, 0),
        (
            {"method": "structured_pruning", "finetune": {"epochs": 2}, "baselines": ["random", "scratch_e"], "training": {"epochs": 5}},
            9000,
            0,
            0,
        ),
        ({"method": "structured_pruning", "pruning_ratio": "auto"}, 0, 9 * 10 * 1000, 0),
        ({"method": "magnitude_pruning", "sparsity": 0.5, "schedule": "iterative", "iterations": 4, "finetune": {"epochs": 1}}, 4000, 0, 0),
        ({"method": "soft_filter_pruning", "epochs": 2, "finetune": {"epochs": 1}}, 3000, 0, 0),
        ({"method": "sensitivity", "ratios": [0.5, 0.9], "examples_count": 400}, 0, 2 * 10 * 400, 0),
        ({"method": "lottery_ticket", "rounds": 3, "training": {"epochs": 1}, "control_repeats": 2}, 8000, 0, 0),
        ({"method": "lottery_ticket", "mode": "one_shot", "rounds": 3, "training": {"epochs": 1}, "controls": []}, 2000, 0, 0),
        ({"method": "supermask", "epochs": 1, "eval_samples": 5}, 1000, 5000, 0),
        ({"method": "static_quantization", "calibration": {"samples": 64}}, 0, 0, 64),
        ({"method": "dynamic_quantization"}, 0, 0, 0),
    ],
    ids=lambda value: value["method"] if isinstance(value, dict) else "",
)
def test_costs_are_passes_of_examples(step: dict[str, Any], trained: float, read: float, calibration: int) -> None:
    cost = catalogue()[step["method"]].model_validate(step).cost(FACTS)
    assert (cost.trained_examples, cost.read_examples, cost.calibration_samples) == (trained, read, calibration)
    assert cost.passes(FACTS) == BACKWARD * trained + read + OBSERVED * calibration


def test_no_more_examples_are_calibrated_on_than_there_are() -> None:
    assert Cost(calibration_samples=5000).passes(FACTS) == OBSERVED * 1000


@pytest.mark.parametrize(
    ("step", "kept"),
    [
        ({"method": "train", "epochs": 1, "batch_size": 32}, 32),
        ({"method": "train", "epochs": 1, "batch_size": 5000}, 1000),
        ({"method": "train", "epochs": 0}, 0),
        (
            {
                "method": "structured_pruning",
                "finetune": {"epochs": 1, "batch_size": 16},
                "regularization": {"epochs": 1, "batch_size": 48},
            },
            48,
        ),
        ({"method": "quantization_aware_training", "epochs": 1, "batch_size": 32}, 64),
        ({"method": "static_quantization"}, 0),
    ],
)
def test_activations_are_kept_for_the_examples_of_a_batch(step: dict[str, Any], kept: int) -> None:
    assert catalogue()[step["method"]].model_validate(step).cost(FACTS).kept_examples == kept


@pytest.mark.parametrize(
    ("step", "left"),
    [
        ({"method": "structured_pruning"}, 0.5),
        ({"method": "structured_pruning", "pruning_ratio": 0.3}, 0.7),
        ({"method": "structured_pruning", "budget": {"macs_ratio": 0.25}}, 0.25),
        ({"method": "structured_pruning", "pruning_ratio": {"conv*": 0.3}}, 1.0),
        ({"method": "network_slimming", "epochs": 1, "pruning_ratio": 0.4}, 0.6),
        ({"method": "magnitude_pruning", "sparsity": 0.9}, 1.0),
    ],
)
def test_a_step_says_what_it_leaves_of_the_network(step: dict[str, Any], left: float) -> None:
    assert catalogue()[step["method"]].model_validate(step).share_left == pytest.approx(left)
