"""The shape of a joint space: modality gap, alignment and uniformity, effective rank.

Papers: Liang et al. 2022 (arXiv 2203.02053) for the gap, Wang & Isola 2020 (arXiv 2005.10242) for the other two.
``X``, ``Y`` are unit rows ``[N, D]`` of pictures and texts, row ``i`` of one belonging to row ``i`` of the other::

    gap      = |mean X - mean Y|
    align    = mean_i |x_i - y_i|^alpha                      alpha = 2; 2 - 2 cos; lower is better
    uniform  = log mean_{i != j} exp(-t |x_i - x_j|^2)       t = 2; lower is better
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from binderclip.errors import InputError

__all__ = ["alignment", "cone", "cross_uniformity", "effective_rank", "gap", "gap_vector", "shift", "uniformity"]

Floats = NDArray[np.float64]


def gap_vector(X: ArrayLike, Y: ArrayLike) -> Floats:
    """``g = mean X - mean Y``, ``[D]``."""
    out: Floats = np.asarray(X, np.float64).mean(axis=0) - np.asarray(Y, np.float64).mean(axis=0)
    return out


def gap(X: ArrayLike, Y: ArrayLike) -> float:
    """``|g|``."""
    return float(np.linalg.norm(gap_vector(X, Y)))


def shift(X: ArrayLike, Y: ArrayLike, amount: float) -> tuple[Floats, Floats]:
    """Both sides moved along the gap and made unit again: ``x - lambda g/2``, ``y + lambda g/2``; 1 makes the means equal.

    (The original study moves by ``lambda g`` on each side: its 0.5 is our 1.)
    """
    g = gap_vector(X, Y) * (amount / 2.0)
    return _unit(np.asarray(X, np.float64) - g), _unit(np.asarray(Y, np.float64) + g)


def cone(X: ArrayLike) -> float:
    """Mean cosine of two different rows: 0 on the whole sphere, towards 1 in a narrow cone."""
    x = np.asarray(X, np.float64)
    N = _at_least_two(x)
    return float(((x.sum(axis=0) ** 2).sum() - (x**2).sum()) / (N * (N - 1)))


def alignment(X: ArrayLike, Y: ArrayLike, alpha: float = 2.0) -> Floats:
    """``|x_i - y_i|^alpha`` of each pair ``[N]``; its mean is the alignment."""
    distance = np.linalg.norm(np.asarray(X, np.float64) - np.asarray(Y, np.float64), axis=1)
    out: Floats = distance**alpha
    return out


def uniformity(X: ArrayLike, t: float = 2.0, *, chunk: int = 1024) -> float:
    """``log mean_{i != j} exp(-t |x_i - x_j|^2)``."""
    return cross_uniformity(X, X, t, chunk=chunk)


def cross_uniformity(X: ArrayLike, Y: ArrayLike, t: float = 2.0, *, chunk: int = 1024) -> float:
    """``log mean_{i != j} exp(-t |x_i - y_j|^2)``, a chunk of rows at a time.

    Raises:
        InputError: fewer than two rows, or sides of different length.
    """
    x, y = np.asarray(X, np.float64), np.asarray(Y, np.float64)
    N = _at_least_two(x)
    if len(y) != N:
        raise InputError(f"{N} rows do not pair with {len(y)}")
    squares = (y**2).sum(axis=1)
    parts = []
    for i in range(0, N, chunk):
        part = x[i : i + chunk]
        power = -t * np.maximum((part**2).sum(axis=1)[:, None] + squares[None] - 2.0 * part @ y.T, 0.0)
        rows = np.arange(len(part))
        power[rows, i + rows] = -np.inf
        parts.append(_log_sum_exp(power.ravel()))
    return _log_sum_exp(np.array(parts)) - float(np.log(N * (N - 1.0)))


def effective_rank(X: ArrayLike) -> float:
    """``exp(entropy)`` of the singular values scaled to sum 1 (Roy & Vetterli 2007): how many directions are in use."""
    values = np.linalg.svd(np.asarray(X, np.float64), compute_uv=False)
    p = values[values > 0] / values.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def _log_sum_exp(values: Floats) -> float:
    top = float(values.max())
    return top + float(np.log(np.exp(values - top).sum()))


def _at_least_two(x: Floats) -> int:
    if len(x) < 2:
        raise InputError("this needs at least two rows")
    return len(x)


def _unit(x: Floats) -> Floats:
    out: Floats = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return out
