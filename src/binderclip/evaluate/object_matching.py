"""Captions that name several objects: does order decide what matches, and what is named first (arXiv 2502.19842)?"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binderclip.data.hashing import Draws
from binderclip.data.pairs import Pair
from binderclip.errors import InputError

__all__ = ["Mentions", "matching", "mention_order"]

Floats = NDArray[Any]
Flags = NDArray[np.bool_]


def matching(
    X: Floats,
    orders: Sequence[Sequence[str]],
    big: Sequence[int],
    vocabulary: Sequence[str],
    texts: Callable[[Sequence[str]], Floats],
    *,
    separator: str = " and ",
    absent: int | None = None,
    symmetric: bool = False,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """How often each picture's right caption is strictly above captions with an absent object: scenarios 1 and 2 ``[N]``.

    ``swap(i)`` has the big object at position i. 1: right ``swap(first)``, wrong ``swap(first)`` with its first name, the
    big one, replaced. 2: right ``swap(last)``, wrong ``swap(first)`` with its last name, a small one, replaced.

    Args:
        X: unit rows of the pictures ``[N, D]``.
        orders: names by slot.
        big: slot of the big object.
        vocabulary: all names.
        texts: sentences to unit rows.
        separator: between names.
        absent: objects tried a picture, drawn; all by default.
        symmetric: scenario 2's wrong caption is ``swap(last)`` with its first name, a small one, replaced: order alone.
        seed: of the drawing.
    """
    said, owner = list[str](), list[tuple[int, int, bool]]()  # picture, scenario, right
    for n, (names, slot) in enumerate(zip(orders, big, strict=True)):
        last = len(names) - 1
        front, back = _swapped(names, slot, 0), _swapped(names, slot, last)
        others = Draws(seed, f"absent/{n}").shuffled("which", [v for v in vocabulary if v not in names])[:absent]
        wrong_2 = (back, 0) if symmetric else (front, last)
        for scenario, right, (base, place) in ((0, front, (front, 0)), (1, back, wrong_2)):
            said.append(separator.join(right))
            owner.append((n, scenario, True))
            for other in others:
                said.append(separator.join([*base[:place], other, *base[place + 1 :]]))
                owner.append((n, scenario, False))
    unique = list(dict.fromkeys(said))
    T = np.asarray(texts(unique), np.float64)
    row = {text: i for i, text in enumerate(unique)}
    X = np.asarray(X, np.float64)
    s = np.array([X[n] @ T[row[text]] for text, (n, _, _) in zip(said, owner, strict=True)])
    picture, scenario_of, right_of = (np.array(column) for column in zip(*owner, strict=True))
    true = np.empty((len(X), 2))
    true[picture[right_of], scenario_of[right_of]] = s[right_of]
    wins = s < true[picture, scenario_of]
    found = []
    for scenario in (0, 1):
        mine = (scenario_of == scenario) & ~right_of
        found.append(np.bincount(picture[mine], wins[mine], len(X)) / np.bincount(picture[mine], minlength=len(X)))
    return found[0], found[1]


def _swapped(names: Sequence[str], a: int, b: int) -> list[str]:
    out = list(names)
    out[a], out[b] = out[b], out[a]
    return out


@dataclass(frozen=True)
class Mentions:
    """In which order captions name objects of which size.

    Args:
        first_largest: of each caption with two named objects or more: is the one named first the largest of those? ``[C]``.
        chance: what that would be if order said nothing, ``1 / objects`` of each ``[C]``.
        areas: relative area (of the sum over the named) by position, one row a mention: (position, area) ``[m, 2]``.
    """

    first_largest: Flags
    chance: Floats
    areas: Floats


def mention_order(pairs: Iterable[Pair]) -> Mentions:
    """Of rows with boxes or masks, and names of them in ``metadata`` (order, phrases or names).

    A name is looked for as whole words in a row, and by its last word where that is no other object's.

    Raises:
        InputError: no caption names two objects.
    """
    hits, chances, areas = list[bool](), list[float](), list[tuple[float, float]]()
    for pair in pairs:
        names = next((list(pair.metadata[key]) for key in ("order", "phrases", "names") if pair.metadata.get(key)), [])
        sizes = [(b[2] - b[0]) * (b[3] - b[1]) for b in pair.boxes] or [float(np.sum(m)) for m in pair.masks]
        if len(names) != len(sizes) or len(names) < 2:
            continue
        for caption in pair.captions:
            at = _places(caption, names)
            seen = sorted((place, k) for k, place in enumerate(at) if place >= 0)
            if len(seen) < 2 or len({place for place, _ in seen}) < len(seen):
                continue
            own = [sizes[k] for _, k in seen]
            hits.append(own[0] > max(own[1:]))
            chances.append(1 / len(own))
            areas += [(float(i), size / max(sum(own), 1e-12)) for i, size in enumerate(own)]
    if not hits:
        raise InputError("no caption names two objects that have a box: give boxes, and names in 'phrases'")
    return Mentions(np.array(hits), np.array(chances), np.array(areas))


def _places(caption: str, names: Sequence[str]) -> list[int]:
    """Where each name begins among the caption's words, or -1."""
    words, split = _words(caption), [_words(name) for name in names]
    ends = [name[-1:] for name in split]
    found = []
    for k, name in enumerate(split):
        place = _find(words, name)
        found.append(_find(words, ends[k]) if place < 0 and ends.count(ends[k]) == 1 else place)
    return found


def _find(words: Sequence[str], part: Sequence[str]) -> int:
    steps = range(len(words) - len(part) + 1) if part else ()
    return next((i for i in steps if list(words[i : i + len(part)]) == list(part)), -1)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:['-][^\W_]+)*", text.lower())
