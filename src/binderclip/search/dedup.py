"""Pictures that are the same, or almost: groups, and which of each to keep. Nothing is ever deleted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from binderclip.search.types import FloatArray, Row

__all__ = ["Group", "find_duplicates", "near_pairs"]

_BLOCK = 2048


@dataclass(frozen=True, slots=True)
class Group:
    """Files that are the same picture.

    Args:
        keep: the one to keep: most pixels, then most bytes, then oldest, then first by path.
        others: the rest, in the order of their paths.
        score: least cosine of `keep` to one of the others; 1 when all are copies.
        exact: all have the same bytes.
    """

    keep: Row
    others: tuple[Row, ...]
    score: float
    exact: bool

    def as_json(self) -> dict[str, Any]:
        """The group as plain values."""
        return {
            "keep": self.keep.path,
            "others": [row.path for row in self.others],
            "score": self.score,
            "exact": self.exact,
            "bytes": sum(row.size for row in self.others),
        }


def find_duplicates(
    rows: Sequence[Row],
    vectors: FloatArray,
    threshold: float | None = 0.98,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Group]:
    """Joins files of equal content, and files whose cosine is at least `threshold`, and what those join.

    Args:
        rows: N files.
        vectors: their unit vectors [N, D].
        threshold: least cosine of near-duplicates; None joins equal contents only.
        on_progress: called with (rows done, rows in all).

    Returns:
        Groups of two and more, the largest first, then by the path that is kept.
    """
    parent = list(range(len(rows)))
    first: dict[str, int] = {}
    for i, row in enumerate(rows):
        _join(parent, first.setdefault(row.content, i), i)
    if threshold is not None:
        unique = sorted(first.values())  # one of each content is enough
        for i, j in near_pairs(vectors[unique], threshold, on_progress):
            _join(parent, unique[i], unique[j])
    members: dict[int, list[int]] = {}
    for i in range(len(rows)):
        members.setdefault(_root(parent, i), []).append(i)
    groups = [_group(rows, vectors, some) for some in members.values() if len(some) > 1]
    return sorted(groups, key=lambda group: (-len(group.others), group.keep.raw_path))


def near_pairs(
    vectors: FloatArray, threshold: float, on_progress: Callable[[int, int], None] | None = None
) -> list[tuple[int, int]]:
    """Pairs i < j of unit rows [N, D] whose cosine is at least `threshold`; exact, N^2 D / 2 multiplications."""
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        for other in range(start, len(vectors), _BLOCK):
            cosines = block @ vectors[other : other + _BLOCK].T  # [B, B]
            left, right = np.nonzero(cosines >= threshold)
            left, right = left + start, right + other
            upper = left < right
            pairs += zip(left[upper].tolist(), right[upper].tolist(), strict=True)
        if on_progress is not None:
            on_progress(min(start + _BLOCK, len(vectors)), len(vectors))
    return pairs


def _group(rows: Sequence[Row], vectors: FloatArray, some: Sequence[int]) -> Group:
    def worth(i: int) -> tuple[Any, ...]:
        row = rows[i]
        return (-row.width * row.height, -row.size, row.mtime_ns, row.raw_path)

    best = min(some, key=worth)
    rest = sorted((i for i in some if i != best), key=lambda i: rows[i].raw_path)
    exact = all(rows[i].content == rows[best].content for i in rest)
    score = 1.0 if exact else float((vectors[rest] @ vectors[best]).min())
    return Group(rows[best], tuple(rows[i] for i in rest), score, exact)


def _root(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


def _join(parent: list[int], i: int, j: int) -> None:
    a, b = _root(parent, i), _root(parent, j)
    parent[max(a, b)] = min(a, b)
