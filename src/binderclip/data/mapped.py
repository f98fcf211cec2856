"""Pairs with each row changed as it is read: captions from labels, rewritten captions, a filter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from binderclip.data.mixed import MixedPairs
from binderclip.data.pairs import Bad, Pair, Pairs, RowPairs, ShardPairs
from binderclip.data.templates import fill, templates
from binderclip.errors import InputError

__all__ = ["captions_from_labels", "mapped"]

Change = Callable[[Pair], Pair | None]


def mapped(pairs: Pairs, change: Change) -> Pairs:
    """The same source with each row changed as it is read; `Pairs.map` is the short form.

    Args:
        pairs: any source.
        change: a row to a row; None leaves the row out, an InputError counts it as bad with that reason.
    """
    if isinstance(pairs, MixedPairs):
        return MixedPairs([mapped(source, change) for source in pairs.sources], pairs.weights)
    if isinstance(pairs, RowPairs):
        return _MappedRows(pairs, change)
    if isinstance(pairs, ShardPairs):
        return _MappedShards(pairs, change)
    raise InputError(f"{pairs.name} is neither RowPairs nor ShardPairs: derive it from one of them")


def captions_from_labels(pairs: Pairs, which: str | Sequence[str] | None = None) -> Pairs:
    """Rows without a caption get one a template: "a photo of a red fox." of the label "red fox".

    Args:
        pairs: with labels.
        which: a named set of templates or sentences with {}; None takes the data's own, else "a photo of a {}.".
    """
    sentences = templates(which or pairs.templates or "photo")

    def change(pair: Pair) -> Pair:
        if pair.captions or pair.label is None:
            return pair
        name = pairs.label_name(pair.label).replace("_", " ")
        return replace(pair, captions=tuple(fill(text, name) for text in sentences), provenance="label")

    return mapped(pairs, change)


def _changed(row: Pair | Bad, change: Change) -> Pair | Bad:
    if isinstance(row, Bad):
        return row
    try:
        return change(row) or Bad(row.id, "left out by the map")
    except InputError as error:
        return Bad(row.id, str(error))


def _take_facts(new: Pairs, old: Pairs) -> None:
    new.classes, new.templates, new.notes = old.classes, old.templates, old.notes


class _MappedRows(RowPairs):
    def __init__(self, inner: RowPairs, change: Change) -> None:
        super().__init__(inner.name)
        self.inner, self.change = inner, change
        _take_facts(self, inner)

    @property
    def rows(self) -> int:
        return self.inner.rows

    def row(self, number: int) -> Pair | Bad:
        return _changed(self.inner.row(number), self.change)


class _MappedShards(ShardPairs):
    def __init__(self, inner: ShardPairs, change: Change) -> None:
        super().__init__(inner.name)
        self.inner, self.change, self.shards = inner, change, inner.shards
        _take_facts(self, inner)

    def rows_in(self, shard: int) -> int | None:
        return self.inner.rows_in(shard)

    def read(self, shard: int, start: int = 0, step: int = 1) -> Iterator[Pair | Bad]:
        return (_changed(row, self.change) for row in self.inner.read(shard, start, step))
