"""Labelled data for probes: items with a picture and what is known of it; `reading.py` makes them from files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from binderclip.data.embeddings import Embeddings, uniform
from binderclip.data.pairs import Media
from binderclip.data.templates import check_names
from binderclip.errors import InputError

__all__ = ["Dataset", "Item", "Sets", "numbered"]


@dataclass(frozen=True)
class Item:
    """One picture and what is known of it.

    Args:
        id: names it within its data.
        image: a path, the bytes of a file, a Pillow image; None where only its vector is known.
        labels: class numbers; none where it is not labelled.
        captions: texts that fit.
        negatives: texts that do not fit.
        references: texts of people, to judge `candidate` beside.
        candidate: the text to judge; the captions otherwise.
        group: items of one group belong together.
        kind: of the negatives, as in "swap_att".
        rating: what people thought, or None.
    """

    id: str
    image: Media | None = None
    labels: tuple[int, ...] = ()
    captions: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    candidate: str = ""
    group: str = ""
    kind: str = ""
    rating: float | None = None

    @cached_property
    def key(self) -> str:
        """What makes two items the same picture: the path, or the content."""
        if self.image is None:
            return f"id:{self.id}"
        if isinstance(self.image, str | Path):
            return "path:" + os.path.abspath(self.image)
        content = self.image
        if isinstance(content, Image.Image):
            content = f"{content.mode}{content.size}".encode() + content.tobytes()
        return "content:" + hashlib.blake2b(content, digest_size=16).hexdigest()


@dataclass(frozen=True)
class Dataset:
    """Items and the names of their classes.

    Args:
        name: for reports.
        items: in order, each id once.
        classes: names by number; empty where nothing is labelled.
        templates: sentences around a class name that came with the data.
        named: whether class names are words (False: numbers, for lack of names).
        bad: pictures that were left out: id -> reason.
        notes: what else a reader must know of the data.

    Raises:
        InputError: an id or a class name comes twice, or a label is out of range.
    """

    name: str
    items: tuple[Item, ...]
    classes: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    named: bool = True
    bad: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.classes:
            check_names(self.classes)
        seen: set[str] = set()
        for item in self.items:
            if item.id in seen:
                raise InputError(f"the id {item.id!r} comes twice in {self.name}: make ids unique")
            seen.add(item.id)
            for label in item.labels:
                if not 0 <= label < len(self.classes):
                    raise InputError(
                        f"label {label} of {item.id!r} is out of range: there are {len(self.classes)} class names, "
                        f"numbered 0 to {len(self.classes) - 1}"
                    )

    def __len__(self) -> int:
        return len(self.items)

    @property
    def ids(self) -> list[str]:
        """Of the items."""
        return [item.id for item in self.items]

    def select(self, mask: Sequence[bool] | NDArray[Any]) -> Dataset:
        """The items for which the mask ``[N]`` is true."""
        return replace(self, items=tuple(item for item, keep in zip(self.items, mask, strict=True) if keep))

    def labelled(self) -> tuple[Dataset, NDArray[np.int64]]:
        """The items with exactly one label, and those labels ``[N]``.

        Raises:
            InputError: there are none, or there is only one class.
        """
        kept = self.select([len(item.labels) == 1 for item in self.items])
        if not kept.items:
            raise InputError(
                f"{self.name} has no labels: give a folder of class folders, or a table with a label column"
            )
        if len(self.classes) < 2:
            raise InputError(f"{self.name} has one class only ({self.classes[0]!r}): give at least two")
        return kept, np.array([item.labels[0] for item in kept.items], dtype=np.int64)

    @property
    def many_labels(self) -> bool:
        """Whether some item has several labels."""
        return any(len(item.labels) > 1 for item in self.items)

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of everything: names, labels, texts and the content of each picture."""
        total = hashlib.sha256(json.dumps([self.classes, self.templates]).encode())
        for item in self.items:
            facts = [item.id, item.labels, item.captions, item.negatives, item.references, item.candidate]
            total.update(json.dumps([*facts, item.group, item.kind, item.rating, _content(item)]).encode())
        return total.hexdigest()[:16]

    @classmethod
    def from_embeddings(cls, table: Embeddings, classes: Sequence[str] | None = None, name: str = "vectors") -> Dataset:
        """Items without pictures, of a table whose labels are class names or numbers."""
        raw = [None] * len(table) if table.labels is None else [_plain(label) for label in table.labels]
        return numbered(name, [Item(key) for key in table.ids], [() if r is None else (r,) for r in raw], classes)


@dataclass(frozen=True)
class Sets:
    """The data of one evaluation.

    Args:
        test: what is measured.
        train: what probes that learn may learn from; the test data are split by the hash of their ids otherwise.
        validation: what settings are chosen on; a tenth of `train` otherwise.
        outliers: pictures of none of the classes.

    Raises:
        InputError: `train` or `validation` have other classes than `test`.
    """

    test: Dataset
    train: Dataset | None = None
    validation: Dataset | None = None
    outliers: Dataset | None = None

    def __post_init__(self) -> None:
        for part in (self.train, self.validation):
            if part is not None and part.classes != self.test.classes:
                raise InputError(f"{part.name} has other classes than {self.test.name}: give both the same --labels")

    def parts(self) -> dict[str, Dataset]:
        """Those that are there, by name."""
        names = ("test", "train", "validation", "outliers")
        return {name: part for name in names if (part := getattr(self, name)) is not None}

    def to_learn(self, seed: int = 0, share: float = 0.2) -> tuple[Dataset, Dataset, str]:
        """Training items, test items, and a note where they come from one set: test = hash of the id below `share`.

        Raises:
            InputError: there is one set only, and it is too small to be split.
        """
        if self.train is not None:
            return self.train, self.test, ""
        held = uniform(seed, self.test.ids) < share
        if held.all() or not held.any():
            raise InputError(
                f"{self.test.name} has {len(self.test)} items, too few to learn from: give --train as well"
            )
        note = (
            f"no training data: learnt on {1 - share:.0%} of the rows by the hash of their ids, measured on the others"
        )
        return self.test.select(~held), self.test.select(held), note


def numbered(
    name: str,
    items: Sequence[Item],
    labels: Sequence[tuple[str | int, ...]],
    classes: Sequence[str] | None,
    *,
    given: bool = True,
) -> Dataset:
    """A dataset whose labels are numbers, from labels that are names or numbers.

    Args:
        name: of the dataset.
        items: without labels.
        labels: of each item.
        classes: their names by number, synonyms behind bars; those that occur, sorted, otherwise.
        given: whether the user gave those names, which are then left as they are.

    Raises:
        InputError: a label that is no class, or one out of range.
    """
    found = {label for row in labels for label in row}
    named, clean = True, classes is None or not given
    if classes is None:
        words = sorted(label for label in found if isinstance(label, str))
        top = max((int(label) for label in found if not isinstance(label, str)), default=-1)
        named = not (top >= 0 or (words and all(word.isdigit() for word in words)))
        classes = words or [str(number) for number in range(top + 1)]
    if clean:
        cleaned = [text.replace("_", " ") for text in classes]
        classes = cleaned if len(set(cleaned)) == len(cleaned) else classes
    if classes:
        check_names(classes)
    at = {_fold(word): k for k, text in enumerate(classes) for word in (text, *text.split("|"))}
    rows = [
        replace(item, labels=tuple(_number_of(label, at, classes, item.id) for label in own))
        for item, own in zip(items, labels, strict=True)
    ]
    return Dataset(name, tuple(rows), tuple(classes), named=named)


def _number_of(label: str | int, at: Mapping[str, int], classes: Sequence[str], where: str) -> int:
    if isinstance(label, str) and _fold(label) in at:
        return at[_fold(label)]
    if isinstance(label, str) and not label.strip().isdigit():
        known = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
        raise InputError(f"label {label!r} of {where!r} is none of the {len(classes)} class names ({known}): add it")
    return int(label)  # its range is checked by the dataset


def _fold(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _content(item: Item) -> str:
    if isinstance(item.image, str | Path):
        try:
            with open(item.image, "rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError:
            return "unreadable"
    return item.key
