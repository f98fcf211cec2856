"""Folds near-duplicates: of pictures that are almost the same, the best hit is listed and the others go under it."""

from __future__ import annotations

import numpy as np

from binderclip.search.types import FloatArray

__all__ = ["fold_rows"]


def fold_rows(rows: FloatArray, threshold: float) -> list[list[int]]:
    """Groups rows that come best first; a row joins the first group whose leader it is as near as `threshold`.

    Args:
        rows: unit vectors [N, D].
        threshold: cosine from which two pictures count as one.

    Returns:
        Positions, a list for each group, leader first; groups in the order of their leaders.
    """
    groups: list[list[int]] = []
    leaders: list[int] = []
    for i in range(len(rows)):
        cosines = rows[leaders] @ rows[i] if leaders else np.zeros(0, np.float32)  # [groups]
        near = np.flatnonzero(cosines >= threshold)
        if len(near):
            groups[int(near[0])].append(i)
        else:
            leaders.append(i)
            groups.append([i])
    return groups
