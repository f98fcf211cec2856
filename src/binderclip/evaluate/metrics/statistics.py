"""How sure a figure is: bootstrap and Wilson intervals, false discovery rate, Kendall's tau."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from binderclip.errors import InputError

__all__ = ["RESAMPLES", "benjamini_hochberg", "bootstrap", "bootstrap_mean", "kendall_tau", "wilson"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
RESAMPLES = 1000
_CELLS = 4_000_000  # numbers drawn at a time


def wilson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share ``hits / n``: honest at 0 and 1, where a bootstrap has no width.

    With ``z`` the normal quantile: ``(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)``.

    Raises:
        InputError: ``n`` is 0.
    """
    if n < 1:
        raise InputError("an interval needs at least one row")
    z = NormalDist().inv_cdf(0.5 + level / 2.0)
    p = hits / n
    middle = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    below = 1 + z * z / n
    return max(0.0, (middle - half) / below), min(1.0, (middle + half) / below)


def bootstrap(
    statistic: Callable[[Ints], float],
    n: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
    centred: bool = False,
) -> tuple[float, float]:
    """Percentile interval of a statistic under resampling of rows with replacement.

    Args:
        statistic: from row numbers ``[n]`` to a number; resamples for which it is not finite are left out.
        n: rows.
        resamples: how many.
        seed: of the drawing.
        level: of the interval.
        centred: take the mean of the resamples away and put the statistic of all rows in its place: for sizes, at least 0,
            which resampling only makes larger (the length of a difference of means, a calibration error).
    """
    rng = np.random.default_rng(seed)
    values = np.array([statistic(rng.integers(0, n, n)) for _ in range(resamples)], dtype=np.float64)
    values = values[np.isfinite(values)]
    if centred and len(values):
        values = np.maximum(values - values.mean() + statistic(np.arange(n)), 0.0)
    return _interval(values, level)


def bootstrap_mean(
    values: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """The same for the mean of values ``[n]``, without a loop over resamples."""
    v = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    at_once = max(1, _CELLS // max(len(v), 1))
    means = [
        v[rng.integers(0, len(v), (min(at_once, resamples - done), len(v)))].mean(axis=1)
        for done in range(0, resamples, at_once)
    ]
    return _interval(np.concatenate(means), level)


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """Adjusted p-values ``[m]``: rejecting those at most ``q`` keeps the false discovery rate at ``q``.

    ``p_(i) m / i`` over the sorted values, made monotone from the largest down.
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values)
    m = len(values)
    stepped = np.minimum.accumulate((values[order] * m / np.arange(1, m + 1))[::-1])[::-1]
    out = np.empty(m)
    out[order] = np.minimum(stepped, 1.0)
    return out


def kendall_tau(a: ArrayLike, b: ArrayLike, variant: str = "b") -> float:
    """Kendall's rank correlation of two columns ``[n]``, with ties: tau-b, or tau-c for columns with few values.

    ``S`` is concordant minus discordant pairs of ``P = n(n-1)/2``, ``T`` the pairs tied in a column, ``m`` the smaller
    number of distinct values: ``tau-b = S / sqrt((P - T_a)(P - T_b))``, ``tau-c = 2 m S / (n^2 (m - 1))``. NaN for a
    constant column.
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    n = len(x)
    total = 0.0
    for i in range(n - 1):
        total += float((np.sign(x[i + 1 :] - x[i]) * np.sign(y[i + 1 :] - y[i])).sum())
    counts = [np.unique(column, return_counts=True)[1].astype(np.float64) for column in (x, y)]
    if variant == "c":
        m = min(len(counts[0]), len(counts[1]))
        return 2.0 * m * total / (n * n * (m - 1)) if m > 1 else float("nan")
    pairs = n * (n - 1) / 2.0
    free = [pairs - float((c * (c - 1) / 2.0).sum()) for c in counts]
    return total / math.sqrt(free[0] * free[1]) if min(free) > 0 else float("nan")


def _interval(values: Floats, level: float) -> tuple[float, float]:
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
