"""k nearest neighbours: what the picture vectors alone know of the classes, without a text and without training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binderclip.errors import InputError
from binderclip.evaluate.base import Metric, Report
from binderclip.evaluate.classifying import class_numbers, class_rows, confusion_chart, top_one, worst_errors
from binderclip.evaluate.data import Sets
from binderclip.evaluate.vectors import Vectors

__all__ = ["KNN", "centroid_scores", "neighbours", "plain_votes", "weighted_votes"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class KNN:
    """Weighted votes as in DINO (Caron et al. 2021, arXiv 2104.14294): ``score_c = sum_{i in top k, y_i = c} exp(s_i / T)``.

    Beside it plain votes (ties go to the class of the nearest neighbour) and the nearest class mean. The numbers without a
    prefix are those of `k`. Neighbours come from the training data; the item itself is no neighbour of its own.

    Args:
        k: of the numbers without a prefix.
        sweep: other k of the weighted vote; DINO's 10, 20, 100, 200.
        plain: k of the plain votes.
        T: temperature of the weights.
        chunk: queries at a time.
    """

    k: int = 20
    sweep: tuple[int, ...] = (10, 20, 100, 200)
    plain: tuple[int, ...] = (1, 5, 20)
    T: float = 0.07
    chunk: int = 512

    def run(self, vectors: Vectors, sets: Sets) -> Report:
        """Measure.

        Raises:
            InputError: no labels, one class only, neighbours of one class only, or a k below 1.
        """
        if min(self.k, *self.sweep, *self.plain) < 1:
            raise InputError("the number of neighbours k must be at least 1")
        sets.test.labelled()
        bank_set, test, note = sets.to_learn()
        bank, y_bank = bank_set.labelled()
        data, y = test.labelled()
        if len(np.unique(y_bank)) < 2:
            raise InputError(
                f"{bank.name}: neighbours of one class only: give training pictures of at least two classes"
            )
        B, X = vectors.images(bank.items), vectors.images(data.items)
        K, most = len(data.classes), max(self.k, *self.sweep, *self.plain)
        at = {item.key: i for i, item in enumerate(bank.items)}
        own = np.array([at.get(item.key, -1) for item in data.items], dtype=np.int64)
        near, cosines = neighbours(X, B, most, own=own, chunk=self.chunk)  # [N, k] each
        votes = y_bank[near]
        scores = weighted_votes(votes[:, : self.k], cosines[:, : self.k], K, self.T)
        numbers: list[Metric] = list(class_numbers(scores, y, K))
        capped, few = (dict.fromkeys(min(k, near.shape[1]) for k in ks) for ks in (self.sweep, self.plain))
        numbers += [top_one(f"k{k}_acc1", weighted_votes(votes[:, :k], cosines[:, :k], K, self.T), y) for k in capped]
        numbers += [top_one(f"plain{k}_acc1", plain_votes(votes[:, :k], K), y) for k in few]
        numbers.append(top_one("centroid_acc1", centroid_scores(X, B, y_bank, K), y))
        rows = class_rows(data, scores, y)
        shares = [f"{len(bank)} neighbours to choose from"] + ([note] if note else [])
        return Report(
            "knn",
            vectors.name,
            data.name,
            tuple(numbers),
            tuple(rows),
            (confusion_chart(y, scores.argmax(axis=1), data.classes),),
            worst_errors(rows),
            notes=tuple(shares),
            standard={"task": "knn", "metrics": {m.name: m.value for m in numbers[:3]}},
        )


def neighbours(
    X: Floats, B: Floats, k: int, *, own: Ints | None = None, chunk: int = 512
) -> tuple[Ints, NDArray[np.float64]]:
    """The ``k`` nearest rows of ``B`` for each row of ``X``, nearest first: numbers and cosines ``[N, min(k, len(B))]``.

    Args:
        X: unit rows ``[N, D]``.
        B: unit rows ``[M, D]``.
        k: how many.
        own: ``[N]`` number in ``B`` of the row itself, which is left out, or -1.
        chunk: rows at a time.
    """
    k = max(1, min(k, len(B) - (1 if own is not None and (own >= 0).any() else 0)))
    near, found = [], []
    for i in range(0, len(X), chunk):
        s = (X[i : i + chunk] @ B.T).astype(np.float64)
        if own is not None:
            inside = np.flatnonzero(own[i : i + chunk] >= 0)
            s[inside, own[i : i + chunk][inside]] = -np.inf
        top = np.argpartition(-s, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(s, top, axis=1), axis=1, kind="stable")
        top = np.take_along_axis(top, order, axis=1)
        near.append(top)
        found.append(np.take_along_axis(s, top, axis=1))
    return np.concatenate(near).astype(np.int64), np.concatenate(found)


def weighted_votes(votes: Ints, cosines: NDArray[Any], K: int, T: float = 0.07) -> NDArray[np.float64]:
    """Scores ``[N, K]``: the sum of ``exp(s / T)`` of the neighbours of each class (from their classes ``[N, k]``)."""
    # subtracting the largest changes no order and keeps exp finite at small T
    weights = np.exp((cosines - cosines[:, :1]) / T)
    out = np.zeros((len(votes), K))
    np.add.at(out, (np.arange(len(votes))[:, None], votes), weights)
    return out


def plain_votes(votes: Ints, K: int) -> NDArray[np.float64]:
    """Scores ``[N, K]``: how many neighbours each class has, ties to the class of the nearest."""
    out = np.zeros((len(votes), K))
    rows = np.arange(len(votes))
    np.add.at(out, (rows[:, None], votes), 1.0)
    for place in range(votes.shape[1] - 1, -1, -1):  # the nearest writes last
        out[rows, votes[:, place]] = np.floor(out[rows, votes[:, place]]) + 0.5 / (place + 1)
    return out


def centroid_scores(X: Floats, B: Floats, y: Ints, K: int) -> NDArray[np.float64]:
    """Cosines ``[N, K]`` to the unit means of the classes; -2 for a class without rows."""
    total = np.zeros((K, B.shape[1]))
    np.add.at(total, y, B)
    norms = np.linalg.norm(total, axis=1, keepdims=True)
    scores: NDArray[np.float64] = X @ (total / np.maximum(norms, 1e-12)).T
    scores[:, np.bincount(y, minlength=K) == 0] = -2.0
    return scores
