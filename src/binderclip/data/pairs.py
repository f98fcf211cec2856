"""Pairs: rows of an image, a video or a sound with its text, wherever they are kept.

Two kinds of source give the same rows. Sources that can jump to a row (a folder, a CSV, a Hugging Face dataset) are
`RowPairs` and are shuffled as a whole. Sources that must be read from the front (tar shards, row groups of Parquet)
are `ShardPairs` and are shuffled by shard, then in blocks. Media stay encoded until somebody decodes them.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from binderclip.errors import InputError

__all__ = ["Bad", "Label", "Media", "Pair", "Pairs", "RowPairs", "ShardPairs"]

#: A path, the bytes of a file, or a picture in memory.
Media = str | Path | bytes | Image.Image
#: A class by its name, or by its number in `Pairs.classes`.
Label = str | int
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Pair:
    """One row.

    Args:
        id: names the row within its source.
        image: where the picture is: a path, the bytes of its file, or a Pillow image.
        video: a path or the bytes of a file.
        audio: a path or the bytes of a file.
        captions: any number of texts that describe the row.
        label: its class, by name or by number in `Pairs.classes`.
        masks: one a region: [H, W] arrays or pictures.
        boxes: one a region: (x0, y0, x1, y1) in pixels of the picture.
        time: when: a date (ISO 8601), or seconds from the start of the recording.
        source: which data set it is from.
        weight: how much it counts, at least 0.
        provenance: who or what made the captions, when they are not the source's own.
        metadata: all else that the source knows of it.
    """

    id: str
    image: Media | None = None
    video: str | bytes | None = None
    audio: str | bytes | None = None
    captions: tuple[str, ...] = ()
    label: Label | None = None
    masks: tuple[Any, ...] = ()
    boxes: tuple[Box, ...] = ()
    time: str | float | None = None
    source: str = ""
    weight: float = 1.0
    provenance: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def caption(self) -> str:
        """The first caption, or nothing."""
        return self.captions[0] if self.captions else ""

    @property
    def nbytes(self) -> int:
        """Bytes of encoded media that the row holds in memory."""
        return sum(len(media) for media in (self.image, self.video, self.audio) if isinstance(media, bytes))


@dataclass(frozen=True, slots=True)
class Bad:
    """A row that cannot be used, and why: counted, never fatal.

    Args:
        id: of the row, as far as it is known.
        reason: in few words and without names, so that reasons can be counted.
    """

    id: str
    reason: str


class Pairs(ABC):
    """A dataset of pairs: open one with `open`, iterate over it, or make a `Stream` of it.

    Args:
        name: of the source, as it is named in reports.

    Attributes:
        classes: names of the classes by number; empty while nobody knows them.
        templates: sentences around a class name that came with the data; empty when none did.
        notes: lines to show to the user: what was left out when the source was opened.
        skipped: reason -> count of rows that iterating left out.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.classes: tuple[str, ...] = ()
        self.templates: tuple[str, ...] = ()
        self.notes: list[str] = []
        self.skipped: Counter[str] = Counter()

    @staticmethod
    def open(
        spec: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        kind: str | None = None,
        split: str | None = None,
        columns: Mapping[str, str] | None = None,
        root: str | os.PathLike[str] | None = None,
        weights: Sequence[float] | None = None,
    ) -> Pairs:
        """Open what a path, a pattern or several of them name.

        Args:
            spec: a folder of pictures (captions in a .txt or .json beside each), a folder of folders (label = folder name),
                a .csv, .tsv, .jsonl, .parquet or .lance table, tar shards (`{00000..00012}.tar`, `*.tar` or their folder),
                a Hugging Face dataset on disk, or `scenes:8192?size=32`; several in a list, or joined by `::`.
            kind: "folder", "classes", "csv", "tsv", "jsonl", "parquet", "lance", "tar" or "hf", where the path leaves doubt.
            split: name of a split where the source has several ("train", "test").
            columns: field of `Pair` -> column, where the guess is wrong: `{"image": "file", "caption": "alt"}`.
            root: what relative paths in a table start from; its own folder otherwise.
            weights: share of each source in a stream of several; by their sizes otherwise.

        Raises:
            InputError: nothing there, nothing in it, or nothing that can be read.
            NeedsExtraError: Parquet, Lance or a Hugging Face dataset without its extra.
        """
        from binderclip.data.sources.opening import open_pairs

        return open_pairs(spec, kind=kind, split=split, columns=columns, root=root, weights=weights)

    @property
    @abstractmethod
    def rows(self) -> int | None:
        """How many rows there are, bad ones too, where that is known without reading them."""

    @abstractmethod
    def scan(self) -> Iterator[Pair | Bad]:
        """All rows in the order of the source, the bad ones with their reason."""

    def __len__(self) -> int:
        if self.rows is None:
            raise TypeError(f"the length of {self.name} is not known without reading it: count while iterating")
        return self.rows

    def __bool__(self) -> bool:
        return self.rows is None or self.rows > 0

    def __iter__(self) -> Iterator[Pair]:
        """The good rows in the order of the source; the others are counted in `skipped`."""
        for row in self.scan():
            if isinstance(row, Bad):
                self.skipped[row.reason] += 1
            else:
                yield row

    def map(self, change: Callable[[Pair], Pair | None]) -> Pairs:
        """The same source with each row changed as it is read; `change` gives None for rows to leave out."""
        from binderclip.data.mapped import mapped

        return mapped(self, change)

    def label_name(self, label: Label) -> str:
        """A class by its name.

        Raises:
            InputError: a number that no class has.
        """
        if isinstance(label, str):
            return label
        if not 0 <= label < len(self.classes):
            raise InputError(f"label {label} of {self.name} has no name: it has {len(self.classes)} class names")
        return self.classes[label]

    def label_number(self, label: Label) -> int:
        """A class by its number.

        Raises:
            InputError: a name that no class has.
        """
        if isinstance(label, int):
            return label
        if label not in self.classes:
            raise InputError(f"{label!r} is no class of {self.name}: it has {len(self.classes)}")
        return self.classes.index(label)


class RowPairs(Pairs):
    """Pairs that can jump to any row."""

    @property
    @abstractmethod
    def rows(self) -> int:
        """How many rows there are, bad ones too."""

    @abstractmethod
    def row(self, number: int) -> Pair | Bad:
        """Row 0 ... rows - 1."""

    def scan(self) -> Iterator[Pair | Bad]:
        """All rows in order."""
        return (self.row(number) for number in range(self.rows))


class ShardPairs(Pairs):
    """Pairs in shards that are read from the front."""

    #: Names of the shards.
    shards: Sequence[str] = ()

    @property
    def rows(self) -> int | None:
        """The sum over shards, or None when one is not known."""
        sizes = [self.rows_in(shard) for shard in range(len(self.shards))]
        return None if None in sizes else sum(size or 0 for size in sizes)

    def rows_in(self, shard: int) -> int | None:
        """How many rows a shard has, where that is cheaply known."""
        return None

    @abstractmethod
    def read(self, shard: int, start: int = 0, step: int = 1) -> Iterator[Pair | Bad]:
        """Rows start, start + step, ... of a shard; a damaged shard ends with a `Bad`."""

    def scan(self) -> Iterator[Pair | Bad]:
        """All rows, shard after shard."""
        for shard in range(len(self.shards)):
            yield from self.read(shard)
