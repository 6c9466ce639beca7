"""Figures equal their definitions, and the module that computes them needs no torch."""

import subprocess
import sys

import numpy as np
import pytest

from engine.contract.errors import EngineError
from engine.metrics.evaluation import (
    MAX_SQNR_DB,
    agreement,
    cosine,
    cross_entropy,
    fidelity_metrics,
    label_metrics,
    sqnr_db,
    top_k_accuracy,
    wilson_interval,
)

LOGITS = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [0.1, 0.2, 0.3], [5.0, 5.0, 0.0]], dtype=np.float32)
LABELS = np.array([0, 2, 2, 1])


def test_top_k_counts_ties_as_argmax_does():
    assert top_k_accuracy(LOGITS, LABELS, 1) == np.mean(LOGITS.argmax(1) == LABELS) == 0.5
    assert top_k_accuracy(LOGITS, LABELS, 2) == 1.0


def test_nan_scores_are_never_right():
    assert top_k_accuracy(np.full((2, 3), np.nan), np.array([0, 1]), 1) == 0


def test_cross_entropy_of_logits_and_of_their_probabilities_agree():
    exponentials = np.exp(LOGITS.astype(np.float64))
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    expected = -np.log(probabilities[np.arange(4), LABELS]).mean()
    assert cross_entropy(LOGITS, LABELS) == pytest.approx(expected)
    assert cross_entropy(probabilities, LABELS) == pytest.approx(expected)


def test_sqnr_of_ten_percent_noise_is_twenty_decibel():
    reference = np.ones((4, 3, 2))
    assert sqnr_db([reference], [reference * 1.1]) == pytest.approx(20)
    assert sqnr_db([reference], [reference]) == MAX_SQNR_DB
    assert sqnr_db([reference], [reference * np.nan]) == -MAX_SQNR_DB


def test_cosine_ignores_scale_and_sees_direction():
    assert cosine([LOGITS], [3 * LOGITS]) == pytest.approx(1)
    assert cosine([LOGITS], [-LOGITS]) == pytest.approx(-1)
    assert cosine([np.zeros((2, 3))], [np.zeros((2, 3))]) == 1


def test_agreement_compares_named_classes():
    assert agreement([LOGITS], [LOGITS[:, ::-1]]) == 0.25


def test_fidelity_works_without_classes_and_on_several_outputs():
    outputs = [np.ones((3, 4, 5), np.float32), np.arange(3)]
    assert fidelity_metrics(outputs, outputs) == {"sqnr_db": MAX_SQNR_DB, "cosine": 1.0}
    with pytest.raises(EngineError, match="shapes"):
        fidelity_metrics(outputs, [outputs[0][:, :2], outputs[1]])


def test_labels_must_fit_the_scores():
    with pytest.raises(EngineError, match="label 7"):
        label_metrics([LOGITS], np.array([0, 1, 2, 7]))
    with pytest.raises(EngineError) as caught:
        label_metrics([np.zeros((4, 1))], LABELS)
    assert caught.value.code == "shape_mismatch"


def test_wilson_interval_equals_the_textbook_and_stays_in_range():
    low, high = wilson_interval(0.9, 100)
    assert (low, high) == pytest.approx((0.8256, 0.9448), abs=1e-4)
    assert 0.999999 < wilson_interval(1.0, 10)[1] <= 1
    assert wilson_interval(1.0, 10)[0] == pytest.approx(0.7225, abs=1e-4)


def test_no_torch_is_loaded():
    code = "import engine.metrics.evaluation, sys; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
