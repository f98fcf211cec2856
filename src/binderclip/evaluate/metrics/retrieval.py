"""Retrieval with several right answers: recall@k both ways, median rank, MRR, nDCG.

A query's rank is that of its best right answer among the wrong ones. With ``above`` wrong answers strictly higher and
``ties`` as high::

    R@k, ours             above + ties < k        a tie is not correct
    R@k, counting ties    above < k               CLIP_benchmark's keys: its top-k takes any of the tied
    rank                  1 + above + ties / 2    a constant model gets chance

This is "hit at k", what papers call recall@k; :func:`true_recall` is found right answers over all right answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from binderclip.errors import InputError

__all__ = ["Ranks", "ndcg", "ranks", "ranks_by_group", "true_recall"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ranks:
    """Where each query's best right answer stands.

    Args:
        above: wrong answers that score higher, ``[Q]``.
        ties: wrong answers that score the same, ``[Q]``.
        best: number of the highest wrong or right answer, ``[Q]``.
    """

    above: Ints
    ties: Ints
    best: Ints

    def hits(self, k: int) -> NDArray[Any]:
        """Queries ``[Q]`` with a right answer among the first ``k``; a tie is not correct."""
        out: NDArray[Any] = self.above + self.ties < k
        return out

    def hits_with_ties(self, k: int) -> NDArray[Any]:
        """Queries ``[Q]`` with a right answer among the first ``k`` when ties are decided in its favour."""
        out: NDArray[Any] = self.above < k
        return out

    @property
    def rank(self) -> Floats:
        """``1 + above + ties / 2`` of each query ``[Q]``."""
        out: Floats = 1.0 + self.above + self.ties / 2.0
        return out

    @property
    def median_rank(self) -> float:
        """Median of the ranks."""
        return float(np.median(self.rank))

    @property
    def mrr(self) -> float:
        """Mean of 1 / rank."""
        return float((1.0 / self.rank).mean())


def ranks(scores: ArrayLike, positives: ArrayLike) -> Ranks:
    """Ranks of queries from scores ``[Q, M]`` and right answers ``[Q, M]`` of bool.

    Raises:
        InputError: a query has no right answer.
    """
    s, right = np.asarray(scores), np.asarray(positives, dtype=bool)
    lost = np.flatnonzero(~right.any(axis=1))
    if len(lost):
        raise InputError(f"{len(lost)} queries have no right answer, the first is number {lost[0]}: leave them out")
    own = np.where(right, s, -np.inf).max(axis=1, keepdims=True)
    above = (~right & (s > own)).sum(axis=1).astype(np.int64)
    ties = (~right & (s == own)).sum(axis=1).astype(np.int64)
    return Ranks(above, ties, s.argmax(axis=1).astype(np.int64))


def ranks_by_group(
    queries: ArrayLike, items: ArrayLike, query_group: ArrayLike, item_group: ArrayLike, *, chunk: int = 512
) -> Ranks:
    """The same from vectors, a chunk of queries at a time; an item is right when it is of the query's group.

    Args:
        queries: ``[Q, D]``.
        items: ``[M, D]``.
        query_group: ``[Q]``.
        item_group: ``[M]``.
        chunk: queries at a time.
    """
    q, m = np.asarray(queries), np.asarray(items)
    groups, of = np.asarray(query_group), np.asarray(item_group)
    parts = [ranks(q[i : i + chunk] @ m.T, groups[i : i + chunk, None] == of[None]) for i in range(0, len(q), chunk)]
    if not parts:
        raise InputError("there are no queries: give at least one")
    return Ranks(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("above", "ties", "best")))


def true_recall(scores: ArrayLike, positives: ArrayLike, k: int) -> Floats:
    """Right answers among the first ``k`` over all right answers, of each query ``[Q]``; a tie at the border is left out."""
    s, right = np.asarray(scores), np.asarray(positives, dtype=bool)
    found = np.empty(len(s))
    for i, row in enumerate(s):
        ordered = np.sort(row)
        # a row's place, worst case: everything as high or higher comes first
        place = len(row) - np.searchsorted(ordered, row[right[i]], side="left")
        found[i] = (place <= k).sum() / max(right[i].sum(), 1)
    return found


def ndcg(scores: ArrayLike, gains: ArrayLike, k: int = 10) -> Floats:
    """``DCG@k / ideal DCG@k`` with ``DCG = sum_r gain_r / log2(r + 1)``, of each query ``[Q]``; ties share their discounts.

    Args:
        scores: ``[Q, M]``.
        gains: ``[Q, M]``, at least 0 (right answers: 1).
        k: ranks beyond it count nothing.
    """
    s, g = np.asarray(scores), np.asarray(gains, dtype=np.float64)
    discount = 1.0 / np.log2(np.arange(s.shape[1]) + 2.0)
    discount[k:] = 0.0
    summed = np.append(0.0, np.cumsum(discount))
    out = np.zeros(len(s))
    for i, row in enumerate(s):
        ideal = float((np.sort(g[i])[::-1] * discount).sum())
        useful = np.flatnonzero(g[i])
        ordered = np.sort(row)
        first = len(row) - np.searchsorted(ordered, row[useful], side="right")
        after = len(row) - np.searchsorted(ordered, row[useful], side="left")
        shared = (summed[after] - summed[first]) / (after - first)
        out[i] = float((g[i, useful] * shared).sum()) / ideal if ideal > 0 else 0.0
    return out
