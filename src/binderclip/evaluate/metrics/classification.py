"""Classification: top-k accuracy, recall and F1 by class, the confusion matrix.

Scores are ``s [N, K]`` (any monotone scale), targets ``y [N]`` class numbers. A target must beat every other class
strictly: a model that gives all classes the same score is never right.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from binderclip.errors import InputError

__all__ = [
    "accuracy",
    "balanced_accuracy",
    "check_targets",
    "confusion",
    "macro_f1",
    "margins",
    "mean_per_class_recall",
    "per_class",
    "top_k_accuracy",
    "true_ranks",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def check_targets(y: ArrayLike, K: int) -> Ints:
    """Targets as whole numbers ``[N]``.

    Raises:
        InputError: none, or one outside ``0 ... K - 1``.
    """
    targets = np.asarray(y, dtype=np.int64).reshape(-1)
    if not len(targets):
        raise InputError("there are no labelled rows to score: give at least one")
    wrong = targets[(targets < 0) | (targets >= K)]
    if len(wrong):
        raise InputError(f"label {wrong[0]} is out of range: there are {K} classes, numbered 0 to {K - 1}")
    return targets


def true_ranks(scores: ArrayLike, y: ArrayLike) -> Ints:
    """How many other classes score as high as the true one or higher, ``[N]``; 0 is a clear win."""
    s = np.asarray(scores)
    targets = check_targets(y, s.shape[1])
    own = s[np.arange(len(s)), targets][:, None]
    ranks: Ints = (s >= own).sum(axis=1).astype(np.int64) - 1
    return ranks


def top_k_accuracy(scores: ArrayLike, y: ArrayLike, k: int = 1) -> float:
    """Share of rows whose class is among the ``k`` best; NaN when there are fewer than ``k`` classes."""
    if np.shape(scores)[1] < k:
        return float("nan")
    return float((true_ranks(scores, y) < k).mean())


def margins(scores: ArrayLike, y: ArrayLike) -> Floats:
    """``s_y - max_{k != y} s_k`` of each row ``[N]``; positive where the row is right."""
    s = np.array(scores, dtype=np.float64)
    rows, targets = np.arange(len(s)), check_targets(y, s.shape[1])
    own = s[rows, targets].copy()
    s[rows, targets] = -np.inf
    out: Floats = own - s.max(axis=1)
    return out


def accuracy(y: ArrayLike, predicted: ArrayLike) -> float:
    """Share of rows that are right."""
    return float((np.asarray(y) == np.asarray(predicted)).mean())


def confusion(y: ArrayLike, predicted: ArrayLike, K: int) -> Ints:
    """Counts ``[K, K]``: row = true class, column = predicted class."""
    flat = check_targets(y, K) * K + check_targets(predicted, K)
    counts: Ints = np.bincount(flat, minlength=K * K).reshape(K, K).astype(np.int64)
    return counts


def per_class(counts: ArrayLike) -> dict[str, Floats]:
    """Precision, recall, F1 and support ``[K]`` from a confusion matrix ``[K, K]``; 0/0 is 0."""
    c = np.asarray(counts, dtype=np.float64)
    hits, support, called = np.diagonal(c), c.sum(axis=1), c.sum(axis=0)
    return {
        "precision": _ratio(hits, called),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, support + called),
        "support": support,
    }


def mean_per_class_recall(y: ArrayLike, predicted: ArrayLike, K: int) -> float:
    """Mean recall over the classes that occur among the targets: balanced accuracy by another name."""
    table = per_class(confusion(y, predicted, K))
    return float(table["recall"][table["support"] > 0].mean())


def balanced_accuracy(y: ArrayLike, predicted: ArrayLike, K: int) -> float:
    """Mean recall over the classes that occur among the targets."""
    return mean_per_class_recall(y, predicted, K)


def macro_f1(y: ArrayLike, predicted: ArrayLike, K: int) -> float:
    """Mean F1 over the classes that occur among targets or predictions."""
    counts = confusion(y, predicted, K)
    occurs = (counts.sum(axis=0) + counts.sum(axis=1)) > 0
    return float(per_class(counts)["f1"][occurs].mean())


def _ratio(a: Any, b: Any) -> Floats:
    out: Floats = np.divide(a, b, out=np.zeros(len(a)), where=np.asarray(b) > 0)
    return out
