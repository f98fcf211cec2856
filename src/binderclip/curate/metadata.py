"""The list of concepts that MetaCLIP counts (arXiv 2309.16671): WordNet, frequent words, bound pairs of words, titles."""

from __future__ import annotations

import json
import math
import os
import string
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path

from binderclip.curate.matching import spaced
from binderclip.data.sources.parquet import pyarrow_module
from binderclip.errors import InputError

__all__ = ["build_metadata", "count_words", "read_metadata", "wordnet_entries"]

_MARKS = frozenset(string.punctuation)


def build_metadata(
    unigrams: Mapping[str, float] | None = None,
    bigrams: Mapping[str, float] | None = None,
    titles: Mapping[str, float] | None = None,
    wordnet: Iterable[str] = (),
    size: int = 500_000,
    *,
    min_count: float = 100,
    min_pmi: float = 30,
    min_views: float = 70,
) -> list[str]:
    """Entries in the order WordNet, words, pairs of words, titles, then "0" ... "99"; each source sorted, each entry once.

    Args:
        unigrams: word -> how often it occurs; those of ``min_count`` or more are taken.
        bigrams: "two words" -> pointwise mutual information; ``min_pmi`` or more.
        titles: title of an article -> views; ``min_views`` or more, none with a colon.
        wordnet: as `wordnet_entries` gives them.
        size: most entries.
        min_count: the paper's 100 is for a whole Wikipedia.
        min_pmi: the paper's 30.
        min_views: the paper's 70 over 26 days.

    Returns:
        The entries, case kept; single punctuation marks are dropped.

    Raises:
        InputError: nothing is left.
    """
    known = dict.fromkeys(sorted(wordnet))
    floors = ((unigrams, min_count), (bigrams, min_pmi), (titles, min_views))
    for number, (source, floor) in enumerate(floors):
        chosen = [key.strip() for key, value in (source or {}).items() if value >= floor]
        known |= dict.fromkeys(sorted(key for key in chosen if number < 2 or ":" not in key))
    if known:
        known |= dict.fromkeys(map(str, range(100)))
    entries = [entry for entry in known if entry and entry not in _MARKS][:size]
    if not entries:
        raise InputError("no word reaches its floor: give more text, or lower min_count")
    return entries


def count_words(texts: Iterable[str]) -> tuple[Counter[str], dict[str, float]]:
    """Words and pairs of neighbouring words (no marks between) of a corpus, spaced as captions are.

    Returns:
        word -> count, and "a b" -> PMI = log2(N n_ab / (n_a n_b)) with N words in all.
    """
    words: Counter[str] = Counter()
    couples: Counter[tuple[str, str]] = Counter()
    for text in texts:
        tokens = spaced(text).split()
        words.update(tokens)
        couples.update((a, b) for a, b in pairwise(tokens) if a not in _MARKS and b not in _MARKS)
    total = words.total()
    pmi = {f"{a} {b}": math.log2(total * n / (words[a] * words[b])) for (a, b), n in couples.items()}
    return words, pmi


def wordnet_entries(path: str | os.PathLike[str]) -> list[str]:
    """The first word of each meaning of a WordNet Parquet file: lower case, cut at its first point, spaces for underscores.

    Raises:
        InputError: the file cannot be read or has no column of lemmas.
        NeedsExtraError: pyarrow is not installed.
    """
    pyarrow = pyarrow_module("reading WordNet")
    from pyarrow.parquet import read_table

    try:
        lemmas = read_table(Path(path), columns=["lemmas"])["lemmas"].to_pylist()
    except (OSError, KeyError, pyarrow.ArrowException) as error:
        raise InputError(
            f"{path} cannot be read ({str(error).splitlines()[0][:100]}): name WordNet's Parquet file"
        ) from None
    first = (words[0].lower().split(".")[0].replace("_", " ").strip() for words in lemmas if words)
    return sorted({entry for entry in first if entry})


def read_metadata(path: str | os.PathLike[str]) -> list[str]:
    """Entries of a file: a line of text each, a JSON list, or WordNet's Parquet file.

    Raises:
        InputError: the file is missing, damaged or empty.
    """
    place = Path(path)
    if place.suffix == ".parquet":
        return wordnet_entries(place)
    try:
        text = place.read_text("utf-8")
        entries = json.loads(text) if place.suffix == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no UTF-8 text or JSON list"
        raise InputError(f"{place} cannot be read ({reason}): give a text file of an entry a line") from None
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise InputError(f"{place} is no list of texts: give a text file of an entry a line")
    found = list(dict.fromkeys(entry.strip() for entry in entries if entry.strip()))
    if not found:
        raise InputError(f"{place} has no entries: give a text file of an entry a line")
    return found
