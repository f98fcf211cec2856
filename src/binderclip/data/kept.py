"""Pairs in memory."""

from __future__ import annotations

from collections.abc import Iterable

from binderclip.data.pairs import Pair, RowPairs

__all__ = ["KeptPairs"]


class KeptPairs(RowPairs):
    """Rows that somebody has already.

    Args:
        name: of the source.
        kept: the rows.
        classes: names of the classes by number.
    """

    def __init__(self, name: str, kept: Iterable[Pair], classes: Iterable[str] = ()) -> None:
        super().__init__(name)
        self.kept, self.classes = list(kept), tuple(classes)

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.kept)

    def row(self, number: int) -> Pair:
        """Row 0 ... rows - 1."""
        return self.kept[number]
