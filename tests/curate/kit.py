"""A small pool of pairs with skewed captions, and the curators that the room's suite runs."""

from __future__ import annotations

import csv
import functools
import importlib
import importlib.util
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from binderclip.cards import load_method
from binderclip.curate.base import Curator
from binderclip.data.pairs import Pair, Pairs

WORDS = [f"w{k}" for k in range(40)]


def zipf_captions(count: int, seed: int = 0, words: list[str] = WORDS) -> list[str]:
    """Captions of one to three words, word k about as often as 1 / (k + 1)."""
    draw = random.Random(seed)
    shares = [1 / (k + 1) for k in range(len(words))]
    return [" ".join(["a", *draw.choices(words, shares, k=draw.randint(1, 3)), "."]) for _ in range(count)]


def pool(count: int = 140) -> list[Pair]:
    """Rows with a caption or two, one without; pictures are named, never opened."""
    texts = zipf_captions(2 * count)
    rows = []
    for i in range(count):
        captions = tuple(texts[2 * i : 2 * i + 1 + i % 2]) if i != 7 else ()
        rows.append(Pair(f"r{i}", image=f"{i:04d}.png", captions=captions))
    return rows


def write_pool(path: Path, rows: list[Pair]) -> Path:
    """The pool as a table."""
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "image", "caption"])
        for row in rows:
            caption = str(list(row.captions)).replace("'", '"') if len(row.captions) > 1 else row.caption
            writer.writerow([row.id, row.image, caption])
    return path


def opener(path: Path) -> Callable[[], Pairs]:
    return functools.partial(Pairs.open, str(path))


def small(slug: str, folder: Path) -> Callable[..., Curator]:
    """The curator with the arguments that its own test file names in `small(folder)`, or its defaults."""
    name = f"tests.curate.test_{slug}"
    arguments: dict[str, Any] = {}
    if importlib.util.find_spec(name) is not None:
        made = getattr(importlib.import_module(name), "small", None)
        arguments = made(folder) if made else {}
    return functools.partial(load_method(slug), **arguments)
