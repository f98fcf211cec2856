"""How well label maps agree: one confusion matrix over all pictures, and what is read off it; anomaly maps by PRO.

``IoU_c = K_cc / (K_c. + K_.c - K_cc)``; mIoU is the mean over classes that occur in truth or prediction, never a mean over
pictures. Pixels of the truth that are 255 (or negative) are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from binderclip.errors import InputError

__all__ = [
    "IGNORE",
    "confusion_of_pixels",
    "frequency_iou",
    "ious",
    "mean_accuracy",
    "mean_iou",
    "pixel_accuracy",
    "pro",
]

IGNORE = 255
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def confusion_of_pixels(truth: ArrayLike, predicted: ArrayLike, C: int) -> Ints:
    """``K [C, C]``: pixels of class i that were taken for class j; add up those of all pictures.

    Raises:
        InputError: sizes that differ, or a class outside 0..C-1.
    """
    y, p = np.asarray(truth), np.asarray(predicted)
    if y.shape != p.shape:
        raise InputError(f"the truth has shape {y.shape}, the prediction {p.shape}: compare them at the truth's size")
    counted = (y != IGNORE) & (y >= 0)
    y, p = y[counted].astype(np.int64), p[counted].astype(np.int64)
    if len(y) and (max(y.max(), p.max()) >= C or p.min() < 0):
        raise InputError(f"labels go to {max(y.max(), p.max())} and from {p.min()}: there are classes 0 to {C - 1}")
    return np.bincount(C * y + p, minlength=C * C).reshape(C, C)


def ious(K: Ints) -> Floats:
    """IoU of each class ``[C]``, NaN where it occurs in neither."""
    hit = np.diag(K).astype(float)
    union = K.sum(0) + K.sum(1) - hit
    out: Floats = np.divide(hit, union, out=np.full(len(K), np.nan), where=union > 0)
    return out


def mean_iou(K: Ints) -> float:
    """Mean IoU of the classes that occur."""
    return float(np.nanmean(ious(K)))


def pixel_accuracy(K: Ints) -> float:
    """Share of pixels that are right."""
    return float(np.trace(K) / K.sum())


def mean_accuracy(K: Ints) -> float:
    """Mean over classes of the truth of the share of their pixels that is right."""
    size = K.sum(1)
    return float((np.diag(K)[size > 0] / size[size > 0]).mean())


def frequency_iou(K: Ints) -> float:
    """IoU weighted by how many pixels each class has."""
    return float(np.nansum(K.sum(1) / K.sum() * ious(K)))


def pro(maps: Sequence[ArrayLike], regions: Sequence[ArrayLike], *, most: float = 0.3, steps: int = 300) -> float:
    """Per-region overlap of anomaly maps: mean share of each region found, over false-positive rates to `most`.

    Args:
        maps: scores ``[H, W]``, high where something is wrong.
        regions: ``[H, W]`` int, 0 for what is sound and k for region k.
        most: upper false-positive rate; the area is divided by it.
        steps: thresholds, at equal shares of the sound pixels.

    Raises:
        InputError: no region, or no sound pixel.
    """
    scores, marks = [np.asarray(m, np.float64) for m in maps], [np.asarray(r) for r in regions]
    sound = np.sort(np.concatenate([s[r == 0] for s, r in zip(scores, marks, strict=True)]))[::-1]
    found = [np.sort(s[r == k]) for s, r in zip(scores, marks, strict=True) for k in np.unique(r) if k]
    if not found or not len(sound):
        raise InputError("PRO needs at least one region and one pixel outside of all")
    rates = np.linspace(0, most, steps + 1)
    at = np.minimum(np.floor(rates * len(sound)).astype(int), len(sound) - 1)
    cuts = sound[at]  # what scores above lets at most that share of sound pixels through
    overlap = np.stack([1 - np.searchsorted(one, cuts, side="right") / len(one) for one in found]).mean(0)
    return float(np.trapezoid(overlap, rates) / most)
