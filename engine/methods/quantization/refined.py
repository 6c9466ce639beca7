"""Weights rounded so that the products of a layer, rather than the weights, stay close to what they were. NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.methods.quantization.moments import Layout
from engine.methods.quantization.rounding import within_pairs

Rows = NDArray[np.float64]
_DAMPING = 0.01
_BLOCK = 128
_STEPS = 300
_STRETCH = 1.1
"""A sigmoid stretched by a tenth on both sides reaches 0 and 1."""


def gptq(weight: Rows, moments: Rows, scales: Rows, levels: tuple[int, int], zeros: Rows | None = None) -> NDArray[np.int32]:
    """Round one input after the other, and let those to come make up for what the rounding of this one costs.

    Source: Frantar et al., GPTQ, ICLR 2023.

    Args:
        weight: (outputs, inputs).
        moments: (inputs, inputs), the mean of x xᵀ.
        scales: The step of each weight, (outputs, inputs) or (outputs, 1).
        levels: Smallest and largest integer.
        zeros: The integer that stands for zero, shaped like `scales`; zero where there is none.

    Returns:
        Integers q of shape (outputs, inputs): weight ≈ scales · (q - zeros).
    """
    outputs, inputs = weight.shape
    scales = np.broadcast_to(scales, weight.shape)
    zeros = np.broadcast_to(np.zeros((1, 1)) if zeros is None else zeros, weight.shape)
    factor, order = _inverse_factor(moments)
    left = weight[:, order].astype(np.float64)
    steps, points = scales[:, order], zeros[:, order]
    integers = np.empty((outputs, inputs), np.int32)
    for start in range(0, inputs, _BLOCK):
        end = min(start + _BLOCK, inputs)
        block, errors = left[:, start:end].copy(), np.empty((outputs, end - start))
        for place in range(end - start):
            column = start + place
            step, point = steps[:, column], points[:, column]
            chosen = np.clip(np.rint(block[:, place] / step + point), *levels)
            integers[:, column] = chosen
            errors[:, place] = (block[:, place] - step * (chosen - point)) / factor[column, column]
            block[:, place:] -= np.outer(errors[:, place], factor[column, column:end])
        left[:, end:] -= errors @ factor[start:end, end:]
    back = np.empty_like(order)
    back[order] = np.arange(inputs)
    return integers[:, back]


def _inverse_factor(moments: Rows) -> tuple[Rows, NDArray[Any]]:
    """The upper Cholesky factor of the inverse of the moments, inputs that matter most first, and their order."""
    order = np.argsort(-np.diag(moments), kind="stable")
    held = moments[np.ix_(order, order)].astype(np.float64)
    diagonal = np.einsum("ii->i", held)
    silent = diagonal <= 0
    diagonal[silent] = 1.0
    diagonal += _DAMPING * max(float(diagonal[~silent].mean()) if not silent.all() else 1.0, 1e-30)
    inverse = np.linalg.inv(held)
    return np.asarray(np.linalg.cholesky((inverse + inverse.T) / 2).T, np.float64), order


def adaround(weight: Rows, moments: Rows, scales: Rows, levels: tuple[int, int], *, steps: int = _STEPS) -> NDArray[np.int32]:
    """Learn for each weight whether it is rounded up or down, by gradient descent on the error of the layer's products.

    Source: Nagel et al., Up or Down? Adaptive Rounding for Post-Training Quantization, ICML 2020; the layer's error is a quadratic form of
    the moments, so that no example is run.

    Args:
        weight: (outputs, inputs).
        moments: (inputs, inputs), the mean of x xᵀ.
        scales: (outputs, 1).
        levels: Smallest and largest integer.
        steps: Steps of Adam.
    """
    quotient = (weight / scales).astype(np.float32)
    low = np.floor(quotient)
    share = np.clip(quotient - low, 1e-3, 1 - 1e-3)
    held = (moments / max(float(np.diag(moments).mean()), 1e-30)).astype(np.float32)
    logit = _logit(share)
    first, second = np.zeros_like(logit), np.zeros_like(logit)
    for step in range(1, steps + 1):
        up, slope = _up(logit)
        gradient = 2 * ((low + up - quotient) @ held) * slope
        if step > steps // 5:
            # Annealed from a mild pull towards 0 and 1 to a strong one.
            done = (step - steps / 5) / (0.8 * steps)
            sharpness = 20 - 18 * done
            centred = 2 * up - 1
            gradient = gradient - 0.01 * 2 * sharpness * np.abs(centred) ** (sharpness - 1) * np.sign(centred) * slope * (1 + 20 * done)
        first = (0.9 * first + 0.1 * gradient).astype(np.float32)
        second = (0.99 * second + 0.01 * gradient**2).astype(np.float32)
        logit = (logit - 0.05 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.99**step)) + 1e-8)).astype(np.float32)
    learned = np.clip(low + (_up(logit)[0] >= 0.5), *levels).astype(np.int32)
    nearest = np.clip(np.rint(quotient), *levels).astype(np.int32)
    better = loss(weight, learned * scales, moments) < loss(weight, nearest * scales, moments)
    return np.where(better[:, None], learned, nearest)


def rounded(
    layout: Layout,
    weight: NDArray[np.float32],
    moments: Rows,
    scales: NDArray[np.float32],
    axis: int | None,
    *,
    by: str,
    portable: bool,
) -> NDArray[np.int8]:
    """The 8-bit integers of a weight, in its own shape.

    Args:
        layout: How the weight stands as rows.
        weight: The weight.
        moments: Of its inputs, (groups, inputs, inputs).
        scales: One for all, or one for each index of dimension `axis`.
        axis: The dimension of the weight that counts output channels, or None.
        by: `gptq` or `adaround`.
        portable: Whether no two integers that a kernel adds up may exceed 128.
    """
    rows = layout.rows(weight).astype(np.float64)
    steps = np.broadcast_to(scales if axis is None else scales.reshape(layout.groups, -1), rows.shape[:2])[..., None]
    function = gptq if by == "gptq" else adaround
    integers = np.stack([function(*part, (-127, 127)) for part in zip(rows, moments, steps.astype(np.float64), strict=True)])
    shaped = layout.back(integers.astype(np.int8))
    return within_pairs(shaped, axis) if portable else shaped


def shift(  # noqa: PLR0917 - what a rounded weight is made of
    layout: Layout, weight: NDArray[np.float32], integers: NDArray[np.int8], scales: NDArray[np.float32], axis: int | None, mean: Rows
) -> Rows:
    """What rounding a weight adds to the mean of each output, where its inputs have the given means (groups, inputs)."""
    shape = [1] * weight.ndim
    if axis is not None:
        shape[axis] = -1
    error = layout.rows(np.asarray(integers * scales.reshape(shape) - weight, np.float32)).astype(np.float64)
    return np.asarray(np.einsum("goi,gi->go", error, mean).reshape(-1))


def loss(weight: Rows, rounded: Rows, moments: Rows) -> Rows:
    """The mean square error of each output."""
    error = weight - rounded
    return np.asarray(np.einsum("oi,oi->o", error @ moments, error))


def _logit(share: NDArray[np.float32]) -> NDArray[np.float32]:
    inside = (share + (_STRETCH - 1)) / (2 * _STRETCH - 1)
    return np.asarray(np.log(inside / (1 - inside)), np.float32)


def _up(logit: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The share by which a weight is rounded up, and its derivative."""
    sigmoid = 1 / (1 + np.exp(-logit))
    stretched = (2 * _STRETCH - 1) * sigmoid - (_STRETCH - 1)
    slope = np.where((stretched > 0) & (stretched < 1), (2 * _STRETCH - 1) * sigmoid * (1 - sigmoid), 0)
    return np.clip(stretched, 0, 1), slope.astype(np.float32)
