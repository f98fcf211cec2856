"""The order in which one source is read: shuffled by hashing, split among readers, and to be taken up again anywhere.

A place in the order is a small tuple of whole numbers, the same in every run; no generator of random numbers has a state.

- RowPairs: row i of epoch e has the key hash64(seed, e, i); rows are read in the order of their keys.
- ShardPairs: shards in the order of their keys, a few open at a time and read in turn; each `buffer` rows so read are put
  in the order of their keys. Memory is bounded by the buffer, and a stop costs one buffer of reading again.

Reader r of R gets each R-th of the shuffled rows, or of the shuffled shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from binderclip.data.hashing import hash64_range
from binderclip.data.pairs import Bad, Pair, Pairs, RowPairs, ShardPairs
from binderclip.errors import InputError

__all__ = ["Order", "Place", "Step", "order_of"]


class Place(NamedTuple):
    """Where to go on.

    Args:
        epoch: from 0.
        offset: rows of this block (of this epoch, where there are no blocks) that were given out.
        upcoming: number of the next shard to be opened.
        lanes: open shards as (number, rows read so far), where the block begins.
    """

    epoch: int = 0
    offset: int = 0
    upcoming: int = 0
    lanes: tuple[tuple[int, int], ...] = ()


class Step(NamedTuple):
    """A row of the order, and the place behind it."""

    row: Pair | Bad
    epoch: int
    after: Place


@dataclass(frozen=True)
class Order:
    """How to read.

    Args:
        seed: of the shuffle.
        shuffle: False keeps the order of the source.
        reader: 0 ... readers - 1.
        readers: among how many the rows are split.
        buffer: rows of a block of shards.
        buffer_bytes: bytes of media after which a block ends sooner.
        lanes: shards read in turn.
        by_rows: split the rows of every shard instead of the shards.
    """

    seed: int = 0
    shuffle: bool = True
    reader: int = 0
    readers: int = 1
    buffer: int = 1024
    buffer_bytes: int = 1 << 28
    lanes: int = 4
    by_rows: bool = False

    def keys(self, epoch: int, count: int, what: str) -> NDArray[np.intp]:
        """Numbers 0 ... count - 1 in their order of this epoch."""
        if not self.shuffle:
            return np.arange(count)
        return np.argsort(hash64_range(self.seed, f"{what}/{epoch}", count), kind="stable")


def order_of(pairs: Pairs, order: Order, place: Place, epochs: int | None = None) -> Iterator[Step]:
    """Rows of one source from a place on, without end or up to a number of epochs.

    Raises:
        InputError: an epoch without a row for this reader, which would never end.
    """
    while epochs is None or place.epoch < epochs:
        epoch, fresh, seen = place.epoch, place == Place(place.epoch), False
        steps = _rows(pairs, order, place) if isinstance(pairs, RowPairs) else _shards(pairs, order, place)
        for step in steps:
            seen = True
            yield step
        if fresh and not seen and epochs is None:
            raise InputError(
                f"{pairs.name} has no rows for reader {order.reader + 1} of {order.readers}: use fewer readers"
            )
        place = Place(epoch + 1)


def _rows(pairs: RowPairs, order: Order, place: Place) -> Iterator[Step]:
    mine = order.keys(place.epoch, pairs.rows, "row")[order.reader :: order.readers]
    for at in range(place.offset, len(mine)):
        yield Step(pairs.row(int(mine[at])), place.epoch, Place(place.epoch, at + 1))


def _shards(pairs: Pairs, order: Order, place: Place) -> Iterator[Step]:
    if not isinstance(pairs, ShardPairs):
        raise InputError(f"{pairs.name} is neither RowPairs nor ShardPairs: derive it from one of them")
    shards = order.keys(place.epoch, len(pairs.shards), "shard")
    reading = _Lanes(pairs, shards if order.by_rows else shards[order.reader :: order.readers], order, place)
    while True:
        start = reading.place()
        block = reading.block()
        if not block:
            return
        # The key of a block is its place, so that no two blocks of an epoch have the same permutation.
        names = order.keys(place.epoch, len(block), f"block/{order.reader}/{start.upcoming}/{start.lanes}")
        for at in range(place.offset, len(block)):
            yield Step(block[int(names[at])], place.epoch, start._replace(offset=at + 1))
        place = start._replace(offset=0)


@dataclass(eq=False)
class _Lane:
    number: int
    done: int
    rows: Iterator[Pair | Bad]


class _Lanes:
    """Shards that are open side by side; a row of each in turn."""

    def __init__(self, pairs: ShardPairs, shards: NDArray[np.intp], order: Order, place: Place) -> None:
        self.pairs, self.shards, self.order, self.epoch = pairs, shards, order, place.epoch
        self.upcoming = place.upcoming
        self.open = [_Lane(number, done, self._read(number, done)) for number, done in place.lanes]

    def place(self) -> Place:
        """Where the next block begins."""
        return Place(self.epoch, 0, self.upcoming, tuple((lane.number, lane.done) for lane in self.open))

    def block(self) -> list[Pair | Bad]:
        """The next rows; none at the end of the epoch. It begins with the first open shard, always."""
        rows: list[Pair | Bad] = []
        size, most = 0, self.order.buffer if self.order.shuffle else 64
        while len(rows) < most and size < self.order.buffer_bytes:
            self._fill()
            if not self.open:
                break
            for lane in list(self.open):
                row = next(lane.rows, None)
                if row is None:
                    self.open.remove(lane)
                    continue
                lane.done += 1
                rows.append(row)
                size += row.nbytes if isinstance(row, Pair) else 0
        return rows

    def _fill(self) -> None:
        lanes = self.order.lanes if self.order.shuffle else 1
        while len(self.open) < lanes and self.upcoming < len(self.shards):
            number = int(self.shards[self.upcoming])
            self.upcoming += 1
            self.open.append(_Lane(number, 0, self._read(number, 0)))

    def _read(self, number: int, done: int) -> Iterator[Pair | Bad]:
        if self.order.by_rows:
            # Each shard begins with another reader, so that shards of one row still reach all of them.
            first = (self.order.reader + number) % self.order.readers
            return self.pairs.read(number, first + done * self.order.readers, self.order.readers)
        return self.pairs.read(number, done)
