"""Tests of a difference: Welch's t and Pearson's r of many columns at once, chi-square, Fisher's exact test.

Tails and quantiles are scipy's (extra ``learn``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from binderclip.errors import InputError, NeedsExtraError

__all__ = ["Tested", "chi_square", "fisher_exact", "pearson", "t_quantile", "t_two_sided", "table_p", "welch"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Tested:
    """A statistic of each of F columns, NaN where it is not defined.

    Args:
        coef: difference of means, or Pearson's r, ``[F]``.
        statistic: Welch's t; r once more.
        p: two-sided, ``[F]``.
        low: lower end of the interval of `coef`.
        high: upper end.
        n: rows that carry the feature, or all rows.
    """

    coef: Floats
    statistic: Floats
    p: Floats
    low: Floats
    high: Floats
    n: NDArray[np.int64]


def welch(B: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> Tested:
    """``d = mean(y | 1) - mean(y | 0)`` of each column of bools, by Welch's t-test (variances unequal).

    ``t = d / sqrt(v1/n1 + v0/n0)``, degrees of freedom by Welch and Satterthwaite; the interval is
    ``d -+ t_{(1 + confidence)/2, df} sqrt(v1/n1 + v0/n0)``.

    Args:
        B: ``[N, F]`` of bool.
        y: ``[N]``.
        confidence: of the interval.
    """
    M, values = np.asarray(B, np.float64), np.asarray(y, np.float64)
    values = values - values.mean()
    n1 = M.sum(axis=0)
    n0 = len(values) - n1
    with np.errstate(divide="ignore", invalid="ignore"):
        m1 = values @ M / n1
        m0 = -(values @ M) / n0  # the values sum to 0
        v1 = ((values**2) @ M - n1 * m1**2) / (n1 - 1) / n1
        v0 = ((values**2).sum() - (values**2) @ M - n0 * m0**2) / (n0 - 1) / n0
        error = np.sqrt(v1 + v0)
        df = (v1 + v0) ** 2 / (v1**2 / (n1 - 1) + v0**2 / (n0 - 1))
        d = m1 - m0
        t = d / error
    half = t_quantile(0.5 + confidence / 2.0, df) * error
    return Tested(d, t, t_two_sided(t, df), d - half, d + half, n1.astype(np.int64))


def pearson(X: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> Tested:
    """Pearson's r of each column with y, its p and Fisher's interval ``tanh(atanh r -+ z / sqrt(n - 3))``.

    Args:
        X: ``[N, F]``.
        y: ``[N]``.
        confidence: of the interval.
    """
    A, values = np.asarray(X, np.float64), np.asarray(y, np.float64)
    n = len(values)
    A, values = A - A.mean(axis=0), values - values.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.clip(values @ A / np.sqrt((A**2).sum(axis=0) * (values**2).sum()), -1.0, 1.0)
        t = r * np.sqrt((n - 2) / (1.0 - r**2))
        half = NormalDist().inv_cdf(0.5 + confidence / 2.0) / math.sqrt(n - 3) if n > 3 else math.inf
        low, high = np.tanh(np.arctanh(r) - half), np.tanh(np.arctanh(r) + half)
    return Tested(r, r, t_two_sided(t, np.full(r.shape, n - 2.0)), low, high, np.full(r.shape, n, np.int64))


def t_two_sided(t: ArrayLike, df: ArrayLike) -> Floats:
    """``P(|T| >= |t|)`` of Student's t; NaN where the degrees of freedom are none."""
    with np.errstate(invalid="ignore"):
        out: Floats = 2.0 * _stats().t.sf(np.abs(np.asarray(t, np.float64)), np.asarray(df, np.float64))
    return out


def t_quantile(level: float, df: ArrayLike) -> Floats:
    """The value below which a share `level` of Student's t lies."""
    with np.errstate(invalid="ignore"):
        out: Floats = _stats().t.ppf(level, np.asarray(df, np.float64))
    return out


def chi_square(table: ArrayLike) -> tuple[float, float, int]:
    """Pearson's chi-square test of independence on counts ``[R, C]``, without continuity correction: statistic, p, df.

    Empty rows and columns are left out; a table with one row or column left has p = 1.
    """
    seen = _filled(table)
    if min(seen.shape, default=0) < 2:
        return 0.0, 1.0, 0
    found = _stats().chi2_contingency(seen, correction=False)
    return float(found.statistic), float(found.pvalue), int(found.dof)


def fisher_exact(table: ArrayLike) -> float:
    """Fisher's exact p, two-sided, of counts ``[2, 2]``: tables as likely as this one or less.

    Raises:
        InputError: another shape.
    """
    seen = np.asarray(table, np.int64)
    if seen.shape != (2, 2):
        raise InputError(f"Fisher's exact test is for a table of 2 x 2, not {seen.shape}")
    return float(_stats().fisher_exact(seen).pvalue)


def table_p(table: ArrayLike) -> tuple[float, str]:
    """Chi-square's p, or Fisher's for a 2 x 2 table with an expected count under 5; and which it was."""
    seen = _filled(table)
    if seen.shape == (2, 2) and (seen.sum(axis=1, keepdims=True) * seen.sum(axis=0) / seen.sum()).min() < 5:
        return fisher_exact(seen), "fisher"
    return chi_square(seen)[1], "chi-square"


def _filled(table: ArrayLike) -> Floats:
    seen = np.asarray(table, np.float64)
    out: Floats = seen[seen.sum(axis=1) > 0][:, seen.sum(axis=0) > 0]
    return out


def _stats() -> Any:
    """scipy.stats, which comes with scikit-learn.

    Raises:
        NeedsExtraError: it is not installed.
    """
    try:
        from scipy import stats
    except ImportError:
        raise NeedsExtraError("a test of significance", "learn") from None
    return stats
