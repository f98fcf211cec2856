"""mIoU and relatives against scikit-learn and slow loops."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from binderclip.errors import InputError
from binderclip.evaluate.metrics.segmentation import (
    confusion_of_pixels,
    frequency_iou,
    ious,
    mean_accuracy,
    mean_iou,
    pixel_accuracy,
    pro,
)


def maps(seed: int, n: int = 6, C: int = 5) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(n):
        y = rng.integers(0, C - 1, (7, 9))  # class C-1 never occurs in the truth
        p = np.where(rng.random((7, 9)) < 0.6, y, rng.integers(0, C, (7, 9)))
        y[rng.random((7, 9)) < 0.1] = 255
        out.append((y, p))
    return out


@pytest.mark.parametrize("seed", [0, 1])
def test_against_scikit_learn(seed: int) -> None:
    pairs = maps(seed)
    K = sum(confusion_of_pixels(y, p, 6) for y, p in pairs)
    y, p = (np.concatenate([one[i].ravel() for one in pairs]) for i in (0, 1))
    y, p = y[y != 255], p[y != 255]
    there = np.union1d(y, p)
    assert mean_iou(K) == pytest.approx(jaccard_score(y, p, average="macro", labels=there), abs=1e-9)
    assert np.isnan(ious(K)[5])
    assert pixel_accuracy(K) == pytest.approx((y == p).mean())
    assert mean_accuracy(K) == pytest.approx(np.mean([(p[y == c] == c).mean() for c in np.unique(y)]))
    slow = sum((y == c).mean() * ((y == c) & (p == c)).sum() / ((y == c) | (p == c)).sum() for c in there)
    assert frequency_iou(K) == pytest.approx(slow)
    backwards = sum(confusion_of_pixels(a, b, 6) for a, b in reversed(pairs))
    assert np.array_equal(K, backwards)


def test_the_ends() -> None:
    y = np.repeat([0, 1, 2, 2], 5)
    assert mean_iou(confusion_of_pixels(y, y, 3)) == 1
    one = confusion_of_pixels(y, np.zeros_like(y), 3)
    assert ious(one)[0] == 0.25  # one class everywhere: its share of the pixels
    with pytest.raises(InputError, match="compare them at the truth's size"):
        confusion_of_pixels(y, y[:3], 3)
    with pytest.raises(InputError, match="there are classes 0 to 1"):
        confusion_of_pixels(y, y, 2)


def test_pro() -> None:
    regions = np.zeros((10, 10), int)
    regions[1:3, 1:3], regions[5:9, 5:9] = 1, 2
    perfect = (regions > 0).astype(float)
    assert pro([perfect], [regions]) == pytest.approx(1.0)
    assert pro([1 - perfect], [regions]) == pytest.approx(0.0)
    rng = np.random.default_rng(0)
    noise = [rng.random((60, 60)) for _ in range(4)]
    many = [np.kron(np.eye(6, dtype=int), np.ones((10, 10), int)) for _ in range(4)]
    assert pro(noise, many) == pytest.approx(0.15, abs=0.02)  # chance: the mean of rates from 0 to 0.3
    scores, marks = rng.random((20, 20)), np.zeros((20, 20), int)
    marks[3:6, 3:9], marks[12:18, 2:4] = 1, 2
    slow = []
    for rate in np.linspace(0, 0.3, 301):
        sound = np.sort(scores[marks == 0])[::-1]
        cut = sound[int(rate * len(sound))]
        slow.append(np.mean([(scores[marks == k] > cut).mean() for k in (1, 2)]))
    assert pro([scores], [marks]) == pytest.approx(np.trapezoid(slow, np.linspace(0, 0.3, 301)) / 0.3, abs=1e-9)
    with pytest.raises(InputError, match="at least one region"):
        pro([scores], [np.zeros((20, 20))])
