"""Stage 4b: the fitted MLPs, once more for an epoch against the compact text tower's own vectors.

What the tower makes of a name differs a little from what the sentence encoder makes of it; the image side follows the tower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from pocket import align, distil
from pocket.inputs import Paths


class StudentLookup:
    """Vectors of the compact tower by text, each computed once."""

    def __init__(self, paths: Paths) -> None:
        self.tower = distil.student(paths)
        self.table: dict[str, np.ndarray] = {}

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors ``[N, D]``."""
        missing = [t for t in dict.fromkeys(texts) if t not in self.table]
        if missing:
            self.table.update(zip(missing, distil.encode(self.tower, missing), strict=True))
        return np.stack([self.table[t] for t in texts])


def main(paths: Paths) -> None:
    """Refit all of ``rows.fits``."""
    torch.manual_seed(0)
    align.fit_all(paths, "joint", StudentLookup(paths), replace(align.Settings(), epochs=2, rate=4e-4))
