"""What a stream gives out: N rows and what was made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binderclip.data.pairs import Label, Pair

__all__ = ["Batch"]


@dataclass(frozen=True)
class Batch:
    """N rows.

    Args:
        rows: the pairs; media as they are kept.
        samples: what `load` made of each.
        epochs: in which pass over its source each row was drawn.
    """

    rows: tuple[Pair, ...]
    samples: tuple[Any, ...]
    epochs: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ids(self) -> list[str]:
        """Of the rows."""
        return [row.id for row in self.rows]

    @property
    def captions(self) -> list[tuple[str, ...]]:
        """All captions of each row."""
        return [row.captions for row in self.rows]

    @property
    def labels(self) -> list[Label | None]:
        """Of the rows."""
        return [row.label for row in self.rows]

    @property
    def weights(self) -> NDArray[np.float32]:
        """How much each row counts [N]."""
        return np.array([row.weight for row in self.rows], np.float32)
