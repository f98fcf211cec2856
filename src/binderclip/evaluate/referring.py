"""Referring expressions with any scorer of regions: which box does a text mean?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from binderclip.data.hashing import Draws
from binderclip.errors import InputError
from binderclip.evaluate.base import Metric, Report, plain, share
from binderclip.evaluate.red_circle import Box, Referring

__all__ = ["ReferringProbe", "overlap"]


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes."""
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(w, 0.0) * max(h, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / union if union > 0 else 0.0


_TIE = 1e-6  # of the largest score: what less apart is rounding


@dataclass(frozen=True)
class ReferringProbe:
    """Which box an expression refers to: right where the chosen one overlaps the true one by more than half (IoU).

    Args:
        scorer: `FALIP`, a `RedCircle`, or anything with their `score`.
        subtract: at most so many expressions of other pictures, whose mean score is taken off; 0 for none.
    """

    scorer: Any
    subtract: int = 0

    def run(
        self,
        rows: Sequence[Referring],
        data: str = "referring",
        *,
        truth: Mapping[str, Box] | None = None,
        splits: Mapping[str, str] | None = None,
    ) -> Report:
        """Measure; a tie with a wrong box is not correct.

        Args:
            rows: expressions with boxes to choose from.
            data: their name.
            truth: the true box of a row by its id, where the boxes are a detector's; else the row's target is it.
            splits: the part that a row belongs to by its id, for an accuracy each.

        Raises:
            InputError: no rows.
        """
        if not rows:
            raise InputError("there are no expressions to measure on: give at least one row")
        hits, table = list[bool](), list[dict[str, Any]]()
        for row in rows:
            own = row.picture or row.id
            others = sorted({r.text for r in rows if (r.picture or r.id) != own}) if self.subtract else []
            others = Draws(0, "negatives").shuffled("which", others)[: self.subtract]
            s = self.scorer.score(row.image, row.boxes, [row.text], others or None)[:, 0]
            true = truth[row.id] if truth else row.boxes[row.target]
            good = np.array([overlap(box, true) > 0.5 for box in row.boxes])
            margin = float(s[good].max(initial=-np.inf) - s[~good].max(initial=-np.inf)) if good.any() else -np.inf
            least = _TIE * max(1.0, float(np.abs(s).max()))
            table.append({"id": row.id, "chosen": int(s.argmax()), "margin": margin, "correct": margin > least})
            hits.append(margin > least)
        numbers: list[Metric] = [share("accuracy", hits)]
        for name in sorted({splits[row.id] for row in rows}) if splits else ():
            part = [hit for hit, row in zip(hits, rows, strict=True) if splits and splits[row.id] == name]
            numbers.append(share(f"accuracy_{name}", part))
        numbers.append(plain("chance", float(np.mean([1 / len(r.boxes) for r in rows])), len(rows), "", "share"))
        return Report("falip", str(getattr(self.scorer, "name", "")), data, tuple(numbers), tuple(table))
