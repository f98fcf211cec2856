"""How a score agrees with ratings of people: Spearman's rank correlation, and Pearson's after a logistic curve."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from binderclip.evaluate.metrics.ranking import average_ranks

__all__ = ["plcc", "srcc"]

Floats = NDArray[np.float64]


def srcc(scores: ArrayLike, ratings: ArrayLike) -> float:
    """Spearman's rank correlation."""
    return _correlation(average_ranks(scores), average_ranks(ratings))


def plcc(scores: ArrayLike, ratings: ArrayLike, rounds: int = 200) -> float:
    """Pearson's correlation after a logistic curve of four parameters is fitted from scores to ratings.

    ``y = b_2 + (b_1 - b_2) / (1 + exp(-(x - b_3) / b_4))`` by damped least squares (Levenberg-Marquardt).
    """
    x, y = np.asarray(scores, np.float64), np.asarray(ratings, np.float64)
    x = (x - x.mean()) / (x.std() or 1.0)
    sign = 1.0 if _correlation(x, y) >= 0 else -1.0
    b, damping = np.array([y.max(), y.min(), 0.0, sign]), 1e-2
    now, J = _logistic(x, b)
    for _ in range(rounds):
        H = J.T @ J
        step = np.linalg.lstsq(H + damping * np.diag(np.diag(H) + 1e-12), J.T @ (y - now), rcond=None)[0]
        then, J_then = _logistic(x, b + step)
        if ((y - then) ** 2).sum() < ((y - now) ** 2).sum():
            b, now, J, damping = b + step, then, J_then, max(damping / 3, 1e-9)
        else:
            damping = min(damping * 4, 1e9)
    return _correlation(now, y)


def _logistic(x: Floats, b: Floats) -> tuple[Floats, Floats]:
    """The curve and its derivatives ``[N, 4]``."""
    width = b[3] if abs(b[3]) > 1e-6 else 1e-6
    s = 1.0 / (1.0 + np.exp(-np.clip((x - b[2]) / width, -500, 500)))
    slope = (b[0] - b[1]) * s * (1 - s)
    return b[1] + (b[0] - b[1]) * s, np.stack([s, 1 - s, -slope / width, -slope * (x - b[2]) / width**2], axis=1)


def _correlation(a: Floats, b: Floats) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / norm if norm else float("nan")
