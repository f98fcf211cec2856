"""A source of pairs in pieces that can be read by themselves, in any order and by any process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from binderclip.data.mixed import MixedPairs
from binderclip.data.pairs import Bad, Pair, Pairs, RowPairs, ShardPairs
from binderclip.errors import InputError

__all__ = ["Piece", "pieces", "rows_of"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A shard, or a range of rows of a source that can jump to any row.

    Args:
        source: number of the source among several.
        name: of the shard or of the rows.
        prefix: of the ids, where several sources could use the same.
        start: of the first row, or the number of the shard.
        stop: behind the last row, or -1 for a shard.
    """

    source: int
    name: str
    prefix: str
    start: int
    stop: int = -1


def pieces(pairs: Pairs, rows: int = 10_000) -> list[Piece]:
    """The pieces of a source in its order; rows of a folder or a table by `rows` at a time.

    Raises:
        InputError: a kind of source that is neither rows nor shards.
    """
    found = []
    sources = _sources(pairs)
    names = [source.name for source in sources]
    for number, source in enumerate(sources):
        prefix = ""
        if len(sources) > 1:
            prefix = f"{source.name}/" if names.count(source.name) == 1 else f"{source.name}.{number}/"
        if isinstance(source, RowPairs):
            for start in range(0, source.rows, rows):
                stop = min(start + rows, source.rows)
                found.append(Piece(number, f"{source.name} {start} to {stop}", prefix, start, stop))
        elif isinstance(source, ShardPairs):
            found += [Piece(number, name, prefix, shard) for shard, name in enumerate(source.shards)]
        else:
            raise InputError(f"{source.name} is neither RowPairs nor ShardPairs: derive it from one of them")
    return found


def rows_of(pairs: Pairs, piece: Piece, bad: Counter[str] | None = None) -> Iterator[Pair]:
    """The good rows of a piece; the others are counted in `bad` by reason."""
    source = _sources(pairs)[piece.source]
    if isinstance(source, ShardPairs):
        rows = source.read(piece.start)
    else:
        assert isinstance(source, RowPairs)
        rows = (source.row(number) for number in range(piece.start, piece.stop))
    for row in rows:
        if isinstance(row, Bad):
            if bad is not None:
                bad[row.reason] += 1
        else:
            yield replace(row, id=piece.prefix + row.id) if piece.prefix else row


def _sources(pairs: Pairs) -> list[Pairs]:
    if isinstance(pairs, MixedPairs):
        return [inner for source in pairs.sources for inner in _sources(source)]
    return [pairs]
