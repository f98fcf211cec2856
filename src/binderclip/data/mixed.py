"""Several sources as one, each with its share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from binderclip.data.pairs import Bad, Pair, Pairs
from binderclip.errors import InputError

__all__ = ["MixedPairs"]


class MixedPairs(Pairs):
    """Several sources as one.

    Args:
        sources: at least one.
        weights: share of each in a stream; None takes them by their sizes, or alike where a size is not known.

    Raises:
        InputError: another number of weights than of sources, or a weight that is not positive.
    """

    def __init__(self, sources: Sequence[Pairs], weights: Sequence[float] | None = None) -> None:
        super().__init__(" + ".join(source.name for source in sources))
        if not sources:
            raise InputError("no sources to mix: give at least one")
        if weights is not None and len(weights) != len(sources):
            raise InputError(f"{len(weights)} weights do not fit {len(sources)} sources: give one each")
        if weights is not None and not all(0 < weight < float("inf") for weight in weights):
            raise InputError(f"weights {list(weights)} are not all positive: leave out a source that should not count")
        self.sources, self.weights = tuple(sources), None if weights is None else tuple(map(float, weights))
        names = {source.classes for source in sources}
        self.classes = names.pop() if len(names) == 1 else ()
        self.templates = next((source.templates for source in sources if source.templates), ())
        self.notes = [note for source in sources for note in source.notes]

    @property
    def rows(self) -> int | None:
        """The sum over sources, or None when one is not known."""
        sizes = [source.rows for source in self.sources]
        return None if None in sizes else sum(size or 0 for size in sizes)

    def shares(self) -> tuple[float, ...]:
        """Share of each source in a stream; together 1."""
        sizes = [source.rows for source in self.sources]
        known = all(sizes)
        weights = self.weights or tuple(float(size or 0) if known else 1.0 for size in sizes)
        return tuple(weight / sum(weights) for weight in weights)

    def scan(self) -> Iterator[Pair | Bad]:
        """All rows, source after source."""
        for source in self.sources:
            yield from source.scan()
