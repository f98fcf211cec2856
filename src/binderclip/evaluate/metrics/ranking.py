"""Ranking one kind of row above another: AUROC, average precision, the false positive rate at a true positive rate."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from binderclip.errors import InputError

__all__ = ["auroc", "average_precision", "average_ranks", "fpr_at_tpr", "mean_average_precision"]

Floats = NDArray[np.float64]


def average_ranks(values: ArrayLike) -> Floats:
    """Ranks from 1 ``[N]``, lowest first; equal values share the mean of their ranks."""
    v = np.asarray(values)
    _, inverse, counts = np.unique(v, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    out: Floats = (last - (counts - 1) / 2.0)[inverse.reshape(-1)]
    return out


def auroc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Probability that a positive row scores above a negative one, ties counted half (Mann-Whitney).

    Args:
        scores: ``[N]``, higher = more positive.
        positive: ``[N]`` of bool.

    Raises:
        InputError: only one kind of row is there.
    """
    mask = _two_kinds(positive)
    n, m = int(mask.sum()), int((~mask).sum())
    return float((average_ranks(scores)[mask].sum() - n * (n + 1) / 2.0) / (n * m))


def average_precision(scores: ArrayLike, positive: ArrayLike) -> float:
    """``AP = sum_t (R_t - R_{t-1}) P_t`` over the distinct thresholds ``t`` from the top; ties enter together.

    Raises:
        InputError: there is no positive row.
    """
    s, mask = np.asarray(scores), np.asarray(positive, dtype=bool)
    if not mask.any():
        raise InputError("average precision needs at least one positive row")
    order = np.argsort(-s, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(s[order])), len(s) - 1)  # last row of each threshold
    hits = np.cumsum(mask[order])[ends].astype(np.float64)
    gained = np.diff(hits, prepend=0.0) / mask.sum()
    return float((gained * hits / (ends + 1)).sum())


def mean_average_precision(scores: ArrayLike, targets: ArrayLike) -> tuple[float, Floats]:
    """Mean of the classes' average precision, and those ``[K]``; a class without a positive row is NaN and left out.

    Args:
        scores: ``[N, K]``.
        targets: ``[N, K]`` of bool: a row may have several classes.

    Raises:
        InputError: no class has a positive row.
    """
    s, mask = np.asarray(scores), np.asarray(targets, dtype=bool)
    each = np.array([average_precision(s[:, k], mask[:, k]) if mask[:, k].any() else np.nan for k in range(s.shape[1])])
    if np.isnan(each).all():
        raise InputError("no class has a positive row: check the labels")
    return float(np.nanmean(each)), each


def fpr_at_tpr(inside: ArrayLike, outside: ArrayLike, tpr: float = 0.95) -> float:
    """Share of outside rows that pass the threshold which keeps at least ``tpr`` of the inside rows (FPR95).

    The threshold is the ``1 - tpr`` quantile of the inside scores by lower interpolation; a row passes at or above it.

    Raises:
        InputError: one side has no rows.
    """
    a, b = np.asarray(inside), np.asarray(outside)
    if not len(a) or not len(b):
        raise InputError("both sides need at least one row")
    # floor with a little slack: 1 - 0.95 is not 0.05 in binary
    threshold = np.sort(a)[int(np.floor((1.0 - tpr) * (len(a) - 1) + 1e-9))]
    return float((b >= threshold).mean())


def _two_kinds(positive: ArrayLike) -> NDArray[Any]:
    mask = np.asarray(positive, dtype=bool)
    if mask.all() or not mask.any():
        raise InputError("only one kind of row is there: AUROC needs positive and negative ones")
    return mask
