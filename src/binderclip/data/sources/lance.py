"""A Lance table, by the extra `lance`: rows are fetched in pieces by their position."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from binderclip.data.pairs import Bad, Pair, ShardPairs
from binderclip.data.sources.fields import guess_columns, pair_of
from binderclip.errors import InputError, NeedsExtraError

__all__ = ["LancePairs"]

_SHARD = 1024  # rows of what is read as one shard
_ROWS = 64


class LancePairs(ShardPairs):
    """Rows of the table `DIR/NAME.lance`, cut into shards of 1,024.

    Args:
        path: of the table.
        columns: field -> column where the guess is wrong.
        root: what relative paths start from; the table's folder otherwise.

    Raises:
        InputError: there is no such table.
        NeedsExtraError: lancedb is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        columns: Mapping[str, str] | None = None,
        root: str | os.PathLike[str] | None = None,
    ) -> None:
        place = Path(path)
        super().__init__(place.stem)
        try:
            import lancedb
        except ImportError:
            raise NeedsExtraError("reading Lance tables", "lance") from None
        self.root = os.fspath(root if root is not None else place.parent)
        try:
            self._table: Any = lancedb.connect(os.fspath(place.parent)).open_table(place.stem)
            self._count = int(self._table.count_rows())
        except Exception as error:  # lancedb raises what its Rust side makes
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{place} is no Lance table that can be read ({reason[:100]})") from None
        self.shards = tuple(f"{place}#{start}" for start in range(0, self._count, _SHARD))
        self.columns = guess_columns(self._table.schema.names, columns, place.name)

    @property
    def rows(self) -> int:
        """How many rows the table has."""
        return self._count

    def rows_in(self, shard: int) -> int:
        """1,024, the last one fewer."""
        return min(_SHARD, self._count - shard * _SHARD)

    def read(self, shard: int, start: int = 0, step: int = 1) -> Iterator[Pair | Bad]:
        """Rows start, start + step, ... of a shard."""
        first = shard * _SHARD
        for begin in range(start, self.rows_in(shard), _ROWS * step):
            wanted = [first + row for row in range(begin, min(begin + _ROWS * step, self.rows_in(shard)), step)]
            try:
                records = self._table.take_offsets(wanted).to_list()
            except Exception:  # as above; the next piece may be whole
                yield from (Bad(str(row), "its Lance row cannot be read") for row in wanted)
                continue
            for row, record in zip(wanted, records, strict=True):
                yield pair_of(record, self.columns, id=str(row), root=self.root, source=self.name)
