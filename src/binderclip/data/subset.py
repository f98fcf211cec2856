"""Some rows of a source: picked by number, or split by the hash of their ids."""

from __future__ import annotations

from collections.abc import Sequence

from binderclip.data.hashing import uniform
from binderclip.data.mixed import MixedPairs
from binderclip.data.pairs import Bad, Pair, Pairs, RowPairs

__all__ = ["Subset", "split_pairs"]


class Subset(RowPairs):
    """Rows of a source, by their numbers.

    Args:
        inner: the source.
        numbers: of its rows, in the order wanted.
    """

    def __init__(self, inner: RowPairs, numbers: Sequence[int]) -> None:
        super().__init__(inner.name)
        self.inner, self.numbers = inner, tuple(numbers)
        self.classes, self.templates, self.notes = inner.classes, inner.templates, inner.notes

    @property
    def rows(self) -> int:
        """How many were picked."""
        return len(self.numbers)

    def row(self, number: int) -> Pair | Bad:
        """One of them."""
        return self.inner.row(self.numbers[number])


def split_pairs(pairs: Pairs, share: float, seed: int = 0) -> tuple[Pairs, Pairs]:
    """All but a share of the rows, and that share: a row is in the second when hash64(seed, id) / 2^64 < share.

    Which rows are held out depends on their ids alone: rows that are added later move no other.

    Args:
        pairs: any source; of shards every row is read and those of the other part are passed over.
        share: of the rows in the second, 0 to 1.
        seed: another seed, another split.
    """
    if isinstance(pairs, MixedPairs):
        halves = [split_pairs(source, share, seed) for source in pairs.sources]
        rest, held = zip(*halves, strict=True)
        return MixedPairs(rest, pairs.weights), MixedPairs(held, pairs.weights)
    if not isinstance(pairs, RowPairs):
        return (
            pairs.map(lambda row: None if _draw(row, seed) < share else row),
            pairs.map(lambda row: row if _draw(row, seed) < share else None),
        )
    chosen = [_draw(pairs.row(i), seed) < share for i in range(pairs.rows)]
    return (
        Subset(pairs, [i for i, held in enumerate(chosen) if not held]),
        Subset(pairs, [i for i, held in enumerate(chosen) if held]),
    )


def _draw(row: Pair | Bad, seed: int) -> float:
    return float(uniform(seed, [f"split/{row.id}"])[0])
