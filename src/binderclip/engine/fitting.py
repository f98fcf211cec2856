"""Fitting a calibration: reference statistics of pictures, then a logistic slope on labelled ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from binderclip.engine.calibration import Calibration
from binderclip.errors import InputError

__all__ = ["fit_calibration", "logistic"]

Floats = npt.NDArray[np.float32]


def logistic(x: npt.ArrayLike, y: npt.ArrayLike, *, ridge: float = 1e-3, rounds: int = 100) -> tuple[float, float]:
    """Slope ``a`` and offset ``b`` of ``P(y | x) = sigmoid(a x + b)``, by Newton's method.

    Args:
        x: ``[N]``.
        y: ``[N]`` of 0 and 1.
        ridge: pull towards zero, which keeps the slope finite when the classes do not overlap.
        rounds: most Newton steps.
    """
    features = np.stack([np.asarray(x, np.float64), np.ones(np.shape(x))], axis=1)  # [N, 2]
    target = np.asarray(y, np.float64)
    w = np.zeros(2)
    for _ in range(rounds):
        p = 1.0 / (1.0 + np.exp(-np.clip(features @ w, -60, 60)))
        gradient = features.T @ (p - target) + ridge * w
        hessian = features.T @ (features * (p * (1 - p))[:, None]) + ridge * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        w -= step
        if np.abs(step).max() < 1e-10:
            break
    return float(w[0]), float(w[1])


def fit_calibration(
    images: Floats, owner: npt.NDArray[np.int64], queries: Floats, *, scenes: int = 40, seed: int = 0
) -> Calibration:
    """Mean, covariance, slope and offset from labelled pictures.

    A scene is a random half of the classes with all their pictures; it is asked for every class. The best hit of a query is
    right when it shows that class, and never for a class that is not in the scene. ``a`` and ``b`` are the logistic
    regression of "right" on the z of the best hit, over ``scenes`` scenes.

    Args:
        images: unit rows ``[N, D]``.
        owner: class number of each picture ``[N]``.
        queries: unit class vectors ``[T, D]``.
        scenes: how many are drawn.
        seed: of the drawing.

    Raises:
        InputError: fewer than four classes or twenty pictures: nothing to fit on.
    """
    if len(queries) < 4 or len(images) < 20:
        raise InputError(
            f"{len(images)} pictures of {len(queries)} classes are too few: give 20 pictures of 4 classes at least"
        )
    plain = Calibration(images.mean(0), np.cov(images.T).astype(np.float32), 1.0, 0.0)
    z = np.stack([plain.z(q, images @ q) for q in queries])  # [T, N]
    rng = np.random.default_rng(seed)
    best, right = [], []
    for _ in range(scenes):
        there = rng.permutation(len(queries)) < len(queries) // 2  # [T]
        inside = np.flatnonzero(there[owner])
        top = inside[z[:, inside].argmax(1)]  # [T]
        best.append(z[np.arange(len(queries)), top])
        right.append(owner[top] == np.arange(len(queries)))
    a, b = logistic(np.concatenate(best), np.concatenate(right))
    return Calibration(plain.mean, plain.covariance, a, b)
