"""Verification: is this pair of vectors one identity? False and true accept rates, equal error, and sizes against scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from binderclip.errors import InputError
from binderclip.evaluate.metrics.ranking import average_ranks

__all__ = ["accept_threshold", "equal_error", "size_correlation", "tar_at_far"]

Floats = NDArray[Any]


def accept_threshold(impostors: ArrayLike, far: float) -> float:
    """The lowest score that at most a share `far` of impostors exceeds."""
    s = np.sort(np.asarray(impostors, np.float64))[::-1]
    return float(s[min(int(np.floor(far * len(s) + 1e-9)), len(s) - 1)])


def _rates(scores: ArrayLike, genuine: ArrayLike) -> tuple[Floats, Floats]:
    """False and true accept rates at "at or above" each distinct score, from none accepted to all."""
    s, mask = np.asarray(scores, np.float64), np.asarray(genuine, bool)
    if mask.all() or not mask.any():
        raise InputError("only one kind of pair is there: give genuine and impostor pairs")
    order = np.argsort(-s, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(s[order])), len(s) - 1)
    true = np.cumsum(mask[order])[ends] / mask.sum()
    false = np.cumsum(~mask[order])[ends] / (~mask).sum()
    return np.append(0.0, false), np.append(0.0, true)


def equal_error(scores: ArrayLike, genuine: ArrayLike) -> float:
    """Mean of false accept and false reject rate at the threshold where they are nearest, the highest such threshold.

    Raises:
        InputError: only one kind of pair.
    """
    false, true = _rates(scores, genuine)
    at = int(np.abs(false - (1 - true)).argmin())
    return float((false[at] + 1 - true[at]) / 2)


def tar_at_far(scores: ArrayLike, genuine: ArrayLike, far: float) -> float:
    """Largest true accept rate at a false accept rate of at most `far`.

    Raises:
        InputError: only one kind of pair.
    """
    false, true = _rates(scores, genuine)
    return float(true[false <= far].max())


def size_correlation(sizes: ArrayLike, scores: ArrayLike) -> float:
    """Spearman's correlation of model sizes and scores; the paper found no clear order."""
    a, b = average_ranks(sizes), average_ranks(scores)
    return float(np.corrcoef(a, b)[0, 1])
