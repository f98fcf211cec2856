"""Batches without end from pairs: shuffled, mixed, split among readers, decoded ahead, and resumed to the row.

The rows and their order are a function of (seed, sources, reader, readers) alone. `state_dict` is a few numbers; a stream
that loads it goes on with the very row that an uninterrupted one would give next. Rows that cannot be used are counted with
their reason and passed over, so that a batch is always full.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from binderclip.data.ahead import ahead
from binderclip.data.batch import Batch
from binderclip.data.hashing import hash64
from binderclip.data.loading import Load, load_image
from binderclip.data.mixed import MixedPairs
from binderclip.data.order import Order, Place, Step, order_of
from binderclip.data.pairs import Bad, Pair, Pairs, RowPairs, ShardPairs
from binderclip.data.report import StreamReport
from binderclip.errors import InputError, NeedsExtraError

__all__ = ["Stream"]

#: What `need` may ask for -> is it there.
_THERE: dict[str, Callable[[Pair], bool]] = {
    "image": lambda pair: pair.image is not None,
    "video": lambda pair: pair.video is not None,
    "audio": lambda pair: pair.audio is not None,
    "caption": lambda pair: bool(pair.captions),
    "label": lambda pair: pair.label is not None,
    "boxes": lambda pair: bool(pair.boxes),
    "masks": lambda pair: bool(pair.masks),
}


class Stream:
    """An iterator of batches that can be stopped and resumed.

    Several sources are drawn from in proportion to their weights: the next row is of the source that lags most behind its
    share, so that every stretch of rows holds the shares to within one row a source.

    Args:
        pairs: any source, or several mixed.
        batch_size: rows of a batch.
        seed: of the order.
        load: (pair, epoch) -> sample, called in threads; an InputError or OSError counts the row as bad. The picture,
            decoded, by default.
        need: what a row must have: "image", "video", "audio", "caption", "label", "boxes", "masks".
        epochs: passes over each source; None never ends, which training with several processes needs.
        shuffle: False keeps the order of the sources.
        drop_last: leave out a last batch that is not full.
        rank: of this process.
        world: number of processes.
        worker: of this process's readers.
        workers: readers of each process.
        split: "shards" gives each reader its own shards, "rows" each n-th row of all shards, "auto" shards when there are
            enough and rows otherwise, which is noted.
        buffer: rows of a block in which rows of shards are shuffled, in memory in encoded form.
        threads: that decode; 0 decodes in the caller.

    Raises:
        InputError: fewer shards than readers with split="shards", one class where labels are needed, or an option that
            makes no sense.
    """

    def __init__(
        self,
        pairs: Pairs,
        batch_size: int,
        *,
        seed: int = 0,
        load: Load = load_image,
        need: Sequence[str] = ("image",),
        epochs: int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
        worker: int = 0,
        workers: int = 1,
        split: str = "auto",
        buffer: int = 1024,
        threads: int = 2,
    ) -> None:
        if batch_size < 1 or buffer < 1 or threads < 0:
            raise InputError(f"batch_size {batch_size}, buffer {buffer}, threads {threads}: they must be positive")
        if not (0 <= rank < world and 0 <= worker < workers):
            raise InputError(f"rank {rank} of {world}, worker {worker} of {workers}: count from 0")
        self.pairs, self.batch_size, self.load, self.epochs = pairs, batch_size, load, epochs
        self.need, self.drop_last, self.threads = _checked_need(need, pairs), drop_last, threads
        self.sources = pairs.sources if isinstance(pairs, MixedPairs) else (pairs,)
        self.shares = pairs.shares() if isinstance(pairs, MixedPairs) else (1.0,)
        self._report = StreamReport(notes=list(pairs.notes))
        base = Order(shuffle=shuffle, reader=rank * workers + worker, readers=world * workers, buffer=buffer)
        self._orders = [
            replace(base, seed=hash64(seed, f"source/{i}"), by_rows=self._by_rows(source, base.readers, split))
            for i, source in enumerate(self.sources)
        ]
        self._identity = {
            "sources": [[source.name, source.rows] for source in self.sources],
            "orders": [asdict(order) for order in self._orders],
            "shares": list(self.shares),
        }
        self.reset()

    def reset(self) -> None:
        """Back to the first row of the first epoch."""
        self._places = tuple(Place() for _ in self.sources)
        self._drawn = tuple(0 for _ in self.sources)

    @property
    def steps_per_epoch(self) -> int | None:
        """Full batches of one pass for one reader, when no row is bad; None where the rows are not known."""
        rows = self.pairs.rows
        return None if rows is None else rows // (self.batch_size * self._orders[0].readers)

    def report(self) -> StreamReport:
        """What was read so far, and what could not be."""
        return self._report

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is, behind the last batch it gave out: a few numbers, fit for JSON."""
        return {
            "version": 1,
            "identity": self._identity,
            "places": [[*place[:3], [list(lane) for lane in place.lanes]] for place in self._places],
            "drawn": list(self._drawn),
            "report": self._report.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another stream over the same rows stopped.

        Raises:
            InputError: the state is of other sources, another seed or another split among readers.
        """
        if state.get("version") != 1:
            raise InputError("the state of the data is of another version of binderclip: start the epoch again")
        for key, own in self._identity.items():
            theirs = state["identity"].get(key)
            if theirs != own:
                raise InputError(
                    f"the state is of another stream, its {key} differ: use the data and seed it began with"
                )
        self._places = tuple(
            Place(epoch, offset, upcoming, tuple((n, done) for n, done in lanes))
            for epoch, offset, upcoming, lanes in state["places"]
        )
        self._drawn = tuple(state["drawn"])
        self._report.load_state_dict(state["report"])

    def __iter__(self) -> Iterator[Batch]:
        """Batches from where the stream is; `epochs` that are done are not begun again without `reset`."""
        rows: list[tuple[Pair, Any, int]] = []
        alive = {i: place.epoch for i, place in enumerate(self._places)}
        with ahead(self._steps(), self._sample, threads=self.threads, depth=2 * self.batch_size) as samples:
            for (source, step, places, drawn), sample in samples:
                self._report.count(self.sources[source].name, step.row, sample)
                if isinstance(sample, Bad):
                    if step.epoch - alive[source] >= 2 and self.epochs is None:
                        raise InputError(f"no row of {self.sources[source].name} can be used: {sample.reason}")
                    continue
                alive[source] = step.epoch
                assert isinstance(step.row, Pair)
                rows.append((step.row, sample, step.epoch))
                if len(rows) == self.batch_size:
                    self._places, self._drawn = places, drawn
                    yield _batch(rows)
                    rows = []
        if rows and not self.drop_last:
            self._places, self._drawn = places, drawn
            yield _batch(rows)
        if not self._report.rows:
            reason = self._report.worst or "it is empty"
            raise InputError(f"no row of {self.pairs.name} can be used: {reason}")

    def _steps(self) -> Iterator[tuple[int, Step, tuple[Place, ...], tuple[int, ...]]]:
        """Rows of all sources in their shares, each with the state behind it."""
        orders = [
            order_of(source, order, place, self.epochs)
            for source, order, place in zip(self.sources, self._orders, self._places, strict=True)
        ]
        places, drawn = list(self._places), list(self._drawn)
        left = set(range(len(orders)))
        while left:
            total = sum(drawn) + 1
            source = max(sorted(left), key=lambda i: self.shares[i] * total - drawn[i])
            step = next(orders[source], None)
            if step is None:
                left.remove(source)
                continue
            places[source] = step.after
            drawn[source] += 1
            yield source, step, tuple(places), tuple(drawn)

    def _sample(self, item: tuple[int, Step, Any, Any]) -> Any:
        """What `load` makes of a row, or why it cannot be used; runs in threads."""
        row, epoch = item[1].row, item[1].epoch
        if isinstance(row, Bad):
            return row
        for name in self.need:
            if not _THERE[name](row):
                return Bad(row.id, f"no {name}")
        try:
            return self.load(row, epoch)
        except (InputError, NeedsExtraError, OSError) as error:
            return Bad(row.id, str(error))

    def _by_rows(self, source: Pairs, readers: int, split: str) -> bool:
        if split not in ("auto", "shards", "rows"):
            raise InputError(f"split is {split!r}: use 'auto', 'shards' or 'rows'")
        if isinstance(source, RowPairs) or not isinstance(source, ShardPairs) or split == "rows":
            return split == "rows"
        if len(source.shards) >= readers:
            return False
        line = f"{source.name} has {len(source.shards)} shards for {readers} readers (processes x workers)"
        if split == "shards":
            raise InputError(f"{line}: make at least {readers}, use fewer workers, or split='rows'")
        self._report.notes.append(f"{line}: each reads all of them and keeps every {readers}th row")
        return True


def _batch(rows: list[tuple[Pair, Any, int]]) -> Batch:
    pairs, samples, epochs = zip(*rows, strict=True)
    return Batch(pairs, samples, epochs)


def _checked_need(need: Sequence[str], pairs: Pairs) -> tuple[str, ...]:
    unknown = [name for name in need if name not in _THERE]
    if isinstance(need, str) or unknown:
        raise InputError(f"a row cannot need {unknown or need!r}: use a list of {', '.join(_THERE)}")
    if "label" in need and len(pairs.classes) == 1:
        raise InputError(f"{pairs.name} has only one class, {pairs.classes[0]!r}: give a folder of at least two")
    return tuple(need)
