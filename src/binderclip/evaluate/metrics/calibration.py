"""Calibration: does a confidence of 0.8 mean right in 8 of 10 (Guo et al. 2017, arXiv 1706.04599)?

With probabilities ``p [N, K]`` and targets ``y``: confidence ``c = max_k p_k``, correct ``a = 1[argmax p = y]``::

    ECE = sum_b n_b / N |acc_b - conf_b|        MCE = max_b |acc_b - conf_b|
    Brier = mean sum_k (p_k - 1[y = k])^2       NLL = -mean log p_y

Bins are closed on the right; an empty bin counts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from binderclip.evaluate.metrics.classification import check_targets

__all__ = [
    "Bins",
    "ace",
    "brier",
    "brier_rows",
    "classwise_ece",
    "ece",
    "fit_temperature",
    "log_softmax",
    "mce",
    "nll",
    "reliability",
    "softmax",
]

Floats = NDArray[np.float64]
LOG_T = 3.0  # temperatures are sought in [e^-3, e^3]


@dataclass(frozen=True, eq=False)
class Bins:
    """A reliability curve: one entry a bin, empty bins left in with count 0.

    Args:
        low: lower edge of each bin, ``[B]``.
        high: upper edge, ``[B]``.
        count: rows, ``[B]``.
        confidence: mean confidence, ``[B]``; NaN where there are no rows.
        accuracy: share that is right, ``[B]``; NaN where there are no rows.
    """

    low: Floats
    high: Floats
    count: NDArray[np.int64]
    confidence: Floats
    accuracy: Floats

    @property
    def gaps(self) -> Floats:
        """``|acc_b - conf_b|``, 0 where there are no rows."""
        out: Floats = np.nan_to_num(np.abs(self.accuracy - self.confidence))
        return out

    @property
    def ece(self) -> float:
        """Gaps weighted by rows."""
        return float((self.count * self.gaps).sum() / self.count.sum())

    @property
    def mce(self) -> float:
        """Largest gap."""
        return float(self.gaps.max())


def reliability(confidence: ArrayLike, correct: ArrayLike, bins: int = 15, *, equal_mass: bool = False) -> Bins:
    """The reliability curve.

    Args:
        confidence: ``[N]`` in ``(0, 1]``.
        correct: ``[N]`` of 0 and 1.
        bins: how many.
        equal_mass: bins of equally many rows (in the order of confidence) instead of equal width.
    """
    c, a = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    if equal_mass:
        order = np.argsort(c, kind="stable")
        parts = [part for part in np.array_split(order, min(bins, len(c))) if len(part)]
        low, high = np.array([c[part].min() for part in parts]), np.array([c[part].max() for part in parts])
        owner = np.empty(len(c), np.int64)
        for number, part in enumerate(parts):
            owner[part] = number
        B = len(parts)
    else:
        edges = np.linspace(0.0, 1.0, bins + 1)
        low, high, B = edges[:-1], edges[1:], bins
        owner = np.clip(np.searchsorted(edges, c, side="left") - 1, 0, B - 1)  # (low, high]
    count = np.bincount(owner, minlength=B)
    with np.errstate(invalid="ignore"):
        mean_c = np.bincount(owner, c, B) / count
        mean_a = np.bincount(owner, a, B) / count
    return Bins(low, high, count.astype(np.int64), mean_c, mean_a)


def ece(confidence: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error over bins of equal width."""
    return reliability(confidence, correct, bins).ece


def mce(confidence: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """Maximum calibration error over bins of equal width."""
    return reliability(confidence, correct, bins).mce


def ace(confidence: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error over bins of equally many rows."""
    return reliability(confidence, correct, bins, equal_mass=True).ece


def classwise_ece(probabilities: ArrayLike, y: ArrayLike, bins: int = 15) -> float:
    """Mean over classes ``k`` of the ECE of ``p_k`` against ``1[y = k]``."""
    p = np.asarray(probabilities, np.float64)
    targets = check_targets(y, p.shape[1])
    return float(np.mean([reliability(p[:, k], targets == k, bins).ece for k in range(p.shape[1])]))


def brier(probabilities: ArrayLike, y: ArrayLike) -> float:
    """``mean sum_k (p_k - 1[y = k])^2``, from 0 to 2."""
    return float(brier_rows(probabilities, y).mean())


def brier_rows(probabilities: ArrayLike, y: ArrayLike) -> Floats:
    """``sum_k (p_k - 1[y = k])^2`` of each row ``[N]``."""
    p = np.array(probabilities, np.float64)
    p[np.arange(len(p)), check_targets(y, p.shape[1])] -= 1.0
    out: Floats = (p**2).sum(axis=1)
    return out


def nll(log_probabilities: ArrayLike, y: ArrayLike) -> float:
    """``-mean log p_y`` from log-probabilities ``[N, K]``."""
    logs = np.asarray(log_probabilities, np.float64)
    return float(-logs[np.arange(len(logs)), check_targets(y, logs.shape[1])].mean())


def log_softmax(logits: ArrayLike) -> Floats:
    """``l - log sum_k exp l_k`` by rows, in float64."""
    z = np.asarray(logits, np.float64)
    z = z - z.max(axis=-1, keepdims=True)
    out: Floats = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    return out


def softmax(logits: ArrayLike) -> Floats:
    """``exp l_k / sum exp l`` by rows, in float64."""
    out: Floats = np.exp(log_softmax(logits))
    return out


def fit_temperature(logits: ArrayLike, y: ArrayLike) -> float:
    """``T`` in ``[e^-3, e^3]`` that minimises the NLL of ``softmax(logits / T)``.

    NLL is convex in ``b = 1/T`` with slope ``mean(E_p[l] - l_y)``, so a bisection on the sign of the slope finds the minimum
    to the last digit.
    """
    z = np.asarray(logits, np.float64)
    own = z[np.arange(len(z)), check_targets(y, z.shape[1])]

    def slope(log_t: float) -> float:
        p = softmax(z * np.exp(-log_t))
        return float(((p * z).sum(axis=1) - own).mean())

    low, high = -LOG_T, LOG_T  # slope at low (b large) is the largest
    if slope(low) <= 0:
        return float(np.exp(low))
    if slope(high) >= 0:
        return float(np.exp(high))
    for _ in range(60):
        middle = (low + high) / 2.0
        if slope(middle) > 0:
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2.0))
