"""Clusters of classes that a network confuses: k-means on the columns of the covariance of its answers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_STARTS, _ROUNDS = 20, 100


def covariance(answers: Floats) -> Floats:
    """(C, C), of answers (N, C)."""
    centered = answers - answers.mean(axis=0)
    return np.asarray(centered.T @ centered / max(1, len(answers) - 1))


def clusters_of(columns: Floats, count: int, rng: np.random.Generator) -> list[list[int]]:
    """At most `count` clusters of the rows of `columns`, each in order: the best of several k-means runs by their sum of squares."""
    count = min(count, len(columns))
    runs = [_k_means(columns, count, rng) for _ in range(_STARTS)]
    labels = min(runs, key=lambda run: run[1])[0]
    found = [np.flatnonzero(labels == number).tolist() for number in range(count)]
    return sorted(cluster for cluster in found if cluster)


def _k_means(points: Floats, count: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], float]:
    """Lloyd's algorithm from centers that are drawn far apart (k-means++); the label of each point, and the sum of squares."""
    centers = points[rng.integers(len(points), size=1)]
    while len(centers) < count:
        nearest = _distances(points, centers).min(axis=1)
        total = nearest.sum()
        chosen = rng.choice(len(points), size=1, p=nearest / total if total > 0 else None)
        centers = np.concatenate([centers, points[chosen]])
    labels = np.full(len(points), -1, dtype=np.int64)
    for _ in range(_ROUNDS):
        new = _distances(points, centers).argmin(axis=1)
        if (new == labels).all():
            break
        labels = new
        for number in range(count):
            if (labels == number).any():
                centers[number] = points[labels == number].mean(axis=0)
    return labels, float(_distances(points, centers).min(axis=1).sum())


def _distances(points: Floats, centers: Floats) -> Floats:
    return np.asarray(np.square(points[:, None] - centers[None]).sum(axis=2))
