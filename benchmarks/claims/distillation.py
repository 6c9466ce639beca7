"""T7, T8, T9: what a student learns from softened answers (Hinton, Vinyals, Dean, 2015)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from benchmarks.claims import lenet
from benchmarks.claims.bench import EXACT, Bench
from benchmarks.claims.claim import Check, Claim, Figures, difference, one, quotient

STUDENT = {"name": "lenet_300_100"}
TEACHING = {"epochs": 25, "augment": {"shift": 2}, "batch_size": 100, "learning_rate": 1e-3}
LEARNING = {"epochs": 15, "batch_size": 100, "learning_rate": 1e-3}
TEMPERATURE = 20.0
HOT = 1000.0
TEMPERATURES = (2.0, 5.0, 10.0, 20.0, 50.0)
THREE = 3
FEW = (7, 8)
CLASSES = 10


def teacher(bench: Bench, seed: int) -> Path:
    """A network that was trained on digits moved by up to two pixels, as a file."""
    steps = [{"method": "train", "initialization": "glorot_normal", **TEACHING}]
    model = lenet.write(bench.folder / "lenet.json")
    return bench.run("T7-teacher", steps, seed=seed, model=model, export=["onnx"]).file("model", "onnx")


def limits(bench: Bench, seed: int) -> Figures:
    """How far training at a high temperature is from matching logits, and how the first step's length depends on the temperature."""
    start = _weights(bench, seed, "start", iterations=0)
    hot = _weights(bench, seed, "hot", temperature=HOT, iterations=10) - start
    matched = _weights(bench, seed, "logits", loss="mse_logits", iterations=10) - start
    steps = [
        float(np.linalg.norm(_weights(bench, seed, f"at{temperature:g}", temperature=temperature, iterations=1) - start))
        for temperature in TEMPERATURES
    ]
    return {
        "apart": float(np.linalg.norm(hot - matched) / np.linalg.norm(matched)),
        "moved": float(np.linalg.norm(matched) / np.linalg.norm(start)),
        "steps_ratio": max(steps) / min(steps),
    }


def _weights(bench: Bench, seed: int, name: str, **fields: Any) -> NDArray[np.float64]:
    """All weights of a new student after some steps of plain gradient descent on the teacher's answers."""
    plain = {"optimizer": "sgd", "momentum": 0.0, "schedule": "constant", "learning_rate": 0.1, "batch_size": 200}
    step = {"method": "distillation", "student": STUDENT, "alpha": 1, **plain, **fields}
    outcome = bench.run(f"T7-{name}", [step], seed=seed, model=teacher(bench, seed), export=["safetensors"])
    stored = load_file(outcome.file("model"))
    return np.concatenate([stored[key].astype(np.float64).reshape(-1) for key in sorted(stored)])


def left_out(bench: Bench, seed: int) -> Figures:
    """Students that saw no 3, or nothing but 7s and 8s, before and after the correction of the biases."""
    three = _distilled(bench, seed, "T8-three", exclude_classes=[THREE], bias_correction="prior_match")
    others = [number for number in range(CLASSES) if number not in FEW]
    few = _distilled(bench, seed, "T8-few", exclude_classes=others, bias_correction="prior_match")
    recall = {row["network"]: 100 * row[f"class {THREE}"] for row in three["recall_of_excluded_classes"]}
    errors, errors_of_few = _errors(three), _errors(few)
    return {
        "hard": recall["hard labels"],
        "soft": recall["before bias correction"],
        "corrected": recall["student"],
        "errors": errors["student"],
        "errors_before": errors["before bias correction"],
        "few": errors_of_few["student"],
        "few_before": errors_of_few["before bias correction"],
    }


def soft_against_hard(bench: Bench, seed: int) -> Figures:
    """Percent wrong of the same student on softened answers alone and on labels alone, and of the teacher."""
    errors = _errors(_distilled(bench, seed, "T9"))
    return {"soft": errors["student"], "hard": errors["hard labels"], "teacher": errors["teacher baseline"]}


def _distilled(bench: Bench, seed: int, name: str, **fields: Any) -> dict[str, Any]:
    step = {"method": "distillation", "student": STUDENT, "alpha": 1, "temperature": TEMPERATURE, "baselines": ["hard_labels"]}
    found: dict[str, Any] = bench.run(
        name, [{**step, **LEARNING, **fields}], seed=seed, model=teacher(bench, seed), evaluation={**EXACT, "metrics": ["top1"]}
    ).step()["report"]
    return found


def _errors(report: dict[str, Any]) -> dict[str, float]:
    return {row["network"]: 100 * (1 - row["test.top1"]) for row in report["compared"]}


CLAIMS = (
    Claim(
        "T7",
        limits,
        (
            Check(
                "10 steps at T = 1000 against 10 steps of matching zero-mean logits: difference of the weights' changes, relative",
                "the same in the limit",
                one("apart"),
                0.01,
                at_most=True,
                every_seed=True,
            ),
            Check(
                "longest over shortest first step with T² and T from 2 to 50",
                "roughly the same size",
                one("steps_ratio"),
                3.0,
                at_most=True,
                every_seed=True,
            ),
            Check("those 10 steps: change of the weights over the weights, so that something was compared", "> 0", one("moved"), 0.001),
        ),
    ),
    Claim(
        "T8",
        left_out,
        (
            Check("3s that are recognized by a student on labels without any 3 (percent)", "0", one("hard"), 2.0, at_most=True),
            Check("3s that are recognized by a student on softened answers to no 3 (percent)", "86.8", one("soft"), 25.0),
            Check("the same with biases that match the training prior (percent)", "98.6 with the best bias", one("corrected"), 70.0),
            Check(
                "all errors with these biases over those before",
                "109 / 206 = 0.53",
                quotient("errors", "errors_before"),
                0.92,
                at_most=True,
            ),
            Check(
                "percent wrong of a student on softened answers to 7s and 8s alone: biases over none (points)",
                "13.2 - 47.3 = -34.1",
                difference("few", "few_before"),
                -5.0,
                at_most=True,
            ),
        ),
    ),
    Claim(
        "T9",
        soft_against_hard,
        (
            Check(
                "percent wrong on softened answers (T = 20, no labels) over that on labels, same student, weights and length (points)",
                "0.74 - 1.46 = -0.72 on MNIST",
                difference("soft", "hard"),
                0.0,
                at_most=True,
            ),
        ),
    ),
)
