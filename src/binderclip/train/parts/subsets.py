"""Rows held in memory: nested subsets by the hash of ids, and the best of them by a teacher's score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from binderclip.data.hashing import hash64
from binderclip.data.media import open_image
from binderclip.data.pairs import Pair, Pairs, RowPairs
from binderclip.errors import InputError, MediaError
from binderclip.model.clip import CLIP

__all__ = ["Held", "quality_of", "subset"]


class Held(RowPairs):
    """Rows in memory, in encoded form.

    Args:
        source: whose rows they are.
        rows: some of them; None takes all good ones.
    """

    def __init__(self, source: Pairs, rows: Sequence[Pair] | None = None) -> None:
        self._rows = tuple(source if rows is None else rows)
        super().__init__(f"{len(self._rows)} of {source.name}")
        self.classes, self.templates = source.classes, source.templates

    @property
    def rows(self) -> int:
        """How many."""
        return len(self._rows)

    def row(self, number: int) -> Pair:
        """One."""
        return self._rows[number]


def subset(pairs: Pairs, rows: int, quality: float = 1.0, scores: Mapping[str, float] | None = None) -> Held:
    """The best ``quality`` of ``rows`` rows chosen by the hash of their ids; held in memory in encoded form.

    A smaller subset lies in a larger one. Rows of equal score are taken in the order of the hash.

    Raises:
        InputError: fewer rows than asked for, or a row without a score.
    """
    chosen = sorted(pairs, key=lambda pair: hash64(0, pair.id))[:rows]
    if len(chosen) < rows:
        raise InputError(f"{pairs.name} has {len(chosen)} good rows, not {rows}: ask for fewer")
    if quality < 1:
        lost = [pair.id for pair in chosen if scores is None or pair.id not in scores]
        if scores is None or lost:
            raise InputError(
                f"{len(lost)} rows have no score, the first is {lost[0]!r}: pass quality_of(pairs, teacher)"
            )
        chosen = sorted(chosen, key=lambda pair: -scores[pair.id])[: math.ceil(quality * rows - 1e-9)]
    return Held(pairs, chosen)


@torch.no_grad()
def quality_of(pairs: Pairs, teacher: CLIP, batch_size: int = 64) -> dict[str, float]:
    """Id -> cosine of a row's picture and its first caption under a teacher; rows that cannot be read have none."""
    preprocess = teacher.preprocess
    assert preprocess is not None
    found: dict[str, float] = {}
    rows: list[tuple[Pair, Any]] = []

    def score() -> None:
        pixels = torch.from_numpy(preprocess.normalize(np.stack([shown for _, shown in rows]))).to(teacher.device)
        cosines: Tensor = (teacher.encode_image(pixels) * teacher.encode_text([pair.caption for pair, _ in rows])).sum(
            -1
        )
        found.update({pair.id: value for (pair, _), value in zip(rows, cosines.tolist(), strict=True)})
        rows.clear()

    for pair in pairs:
        if pair.image is None or not pair.caption:
            continue
        try:
            rows.append((pair, preprocess(open_image(pair.image).image)))
        except MediaError:
            continue
        if len(rows) == batch_size:
            score()
    if rows:
        score()
    return found
