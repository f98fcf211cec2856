"""Streams out of labelled rows: classes by groups, whole data sets one after the other, the same classes in new dress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from binderclip.continual.base import Rows, Stream, Task
from binderclip.data.hashing import uniform
from binderclip.errors import InputError

__all__ = [
    "DOMAINS",
    "class_groups",
    "class_incremental",
    "class_order",
    "domain_incremental",
    "held_out",
    "multi_domain",
]

#: Dresses of one picture, in the order of the stream.
DOMAINS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "photo": lambda image: image,
    "grey": lambda image: ImageOps.grayscale(image).convert("RGB"),
    "inverted": ImageOps.invert,
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(max(image.size) / 16)),
    "eight colours": lambda image: ImageOps.posterize(image, 1),
    "pixelated": lambda image: image.resize((8, 8), Image.Resampling.BOX).resize(image.size, Image.Resampling.NEAREST),
}


def class_order(classes: Sequence[str], seed: int = 0) -> tuple[str, ...]:
    """Names by u(name): an order that new classes do not disturb, never that of the data set by accident."""
    drawn = uniform(seed, [f"class/{name}" for name in classes])
    return tuple(classes[int(i)] for i in np.argsort(drawn, kind="stable"))


def class_groups(order: Sequence[str], increment: int, initial: int | None = None) -> list[tuple[str, ...]]:
    """``initial`` classes (by default as many as all), then groups of `increment`; the last may be smaller.

    Raises:
        InputError: sizes that are none.
    """
    first = increment if initial is None else initial
    if increment < 1 or first < 1:
        raise InputError(f"groups of {first}, then {increment}: give at least one class a task")
    cuts = [0, *range(min(first, len(order)), len(order), increment), len(order)]
    return [tuple(order[a:b]) for a, b in pairwise(cuts) if b > a]


def class_incremental(
    train: Rows,
    test: Rows,
    increment: int,
    *,
    initial: int | None = None,
    order: Sequence[str] | None = None,
    seed: int = 0,
    kind: str = "class",
    template: str | Sequence[str] = "a good photo of a {}.",
) -> Stream:
    """One data set cut by its classes; ``kind="task"`` tells the task at test time.

    Args:
        train: rows to learn from.
        test: rows to measure on.
        increment: classes a task.
        initial: classes of the first task, where it differs.
        order: of the classes; by default one drawn by `seed`.
        seed: of that.
        kind: "class" or "task".
        template: sentences around a name.

    Raises:
        InputError: classes in the test rows that are not in the training rows' or the order.
    """
    names = tuple(order) if order is not None else class_order(sorted(set(train.y) | set(test.y)), seed)
    missing = sorted((set(train.y) | set(test.y)) - set(names))
    if missing:
        raise InputError(f"the order of classes lacks {missing[0]!r}")
    tasks = [
        Task(i, f"{len(group)} classes from {group[0]}", train.of(group), test.of(group), group, template)
        for i, group in enumerate(class_groups(names, increment, initial))
    ]
    return Stream(kind, tuple(tasks), seed)


def held_out(rows: Rows, share: float = 0.2, seed: int = 0) -> tuple[Rows, Rows]:
    """Training and test rows: a row is a test row where u(id) < share; a class always keeps a row on either side it can."""
    u, y = uniform(seed, [f"held/{key}" for key in rows.ids]), np.array(rows.y)
    test = u < share
    for name in dict.fromkeys(rows.y):
        own = np.flatnonzero(y == name)
        if len(own) > 1 and (test[own].all() or not test[own].any()):
            test[own] = False
            test[own[np.argmin(u[own])]] = True
        elif len(own) == 1:
            test[own] = False
    return rows.take(np.flatnonzero(~test)), rows.take(np.flatnonzero(test))


def multi_domain(sets: Sequence[tuple[str, Rows, Rows, str | Sequence[str]]], *, joint: bool = False) -> Stream:
    """Whole data sets, each (name, train, test, template), one after the other.

    Args:
        sets: in order; a set's classes are those of its rows, sorted.
        joint: classify among the names of all sets, without the task's number.
    """
    tasks = [
        Task(i, name, train, test, tuple(sorted(set(train.y) | set(test.y))), template)
        for i, (name, train, test, template) in enumerate(sets)
    ]
    return Stream("joint" if joint else "task", tuple(tasks))


def domain_incremental(
    train: Rows,
    test: Rows,
    encode: Callable[[Sequence[Any]], Any],
    *,
    template: str | Sequence[str] = "a photo of a {}.",
) -> Stream:
    """The same classes in a new dress at every task; rows must hold Pillow images.

    Args:
        train: rows of all tasks, cut into as many parts by their ids.
        test: measured on in every dress.
        encode: Pillow images to unit vectors.
        template: sentences around a name.

    Raises:
        InputError: the rows hold no pictures.
    """
    if train.images is None or test.images is None:
        raise InputError("a domain-incremental stream changes pictures: give rows with images")
    classes = tuple(sorted(set(train.y) | set(test.y)))
    part = (uniform(0, [f"domain/{key}" for key in train.ids]) * len(DOMAINS)).astype(int)
    tasks = []
    for i, (name, dress) in enumerate(DOMAINS.items()):
        own = train.take(np.flatnonzero(part == i))
        tasks.append(Task(i, name, _dressed(own, dress, encode), _dressed(test, dress, encode), classes, template))
    return Stream("domain", tuple(tasks))


def _dressed(rows: Rows, dress: Callable[[Image.Image], Image.Image], encode: Callable[[Sequence[Any]], Any]) -> Rows:
    images = [dress(image.convert("RGB")) for image in rows.images or ()]
    return Rows(rows.ids, rows.y, np.asarray(encode(images)) if images else None, images)
