"""Files that `feature_correlation` reads: scored rows of another probe, counts, ratings and classes of words."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from binderclip.data.sources.parquet import pyarrow_module
from binderclip.data.wordnet import WordNet
from binderclip.errors import InputError
from binderclip.evaluate.encoding import Sample
from binderclip.evaluate.wording import Lexicon, words_of

__all__ = ["digest_of", "open_lexicon", "read_samples"]

_NAME = 4  # words of a class name, at most; what is longer is a sentence


def open_lexicon(wordnet: str, frequencies: str, concreteness: str, classes: str, captions: Sequence[str]) -> Lexicon:
    """What is known of words, from files; `frequencies` are counted in captions where no file is named.

    Raises:
        InputError: a file cannot be read.
    """
    counts: Mapping[str, float] | None = _count(captions)
    if frequencies == "wordnet":
        if not wordnet:
            raise InputError("frequencies=wordnet counts WordNet's glosses: name its Parquet file, as wordnet=FILE")
        pyarrow_module("reading WordNet")
        from pyarrow.parquet import read_table

        counts = _count(read_table(Path(wordnet), columns=["gloss"])["gloss"].to_pylist())
    elif frequencies:
        counts = _table(Path(frequencies))
    return Lexicon(
        WordNet(wordnet) if wordnet else None,
        counts,
        _table(Path(concreteness)) if concreteness else None,
        _classes(Path(classes)) if classes else None,
    )


def read_samples(path: Path, text: str, column: str) -> list[Sample]:
    """Scored texts of a CSV of per-item rows, as `binderclip evaluate --out` writes them.

    Raises:
        InputError: it cannot be read, or has no such column of numbers.
    """
    rows = _lines(path)
    if not rows or not {text, column} <= set(rows[0]):
        have = ", ".join(rows[0]) if rows else "no rows"
        raise InputError(f"{path} needs the columns {text!r} and {column!r}: it has {have}")
    truth = {"True": 1.0, "False": 0.0}
    try:
        values = [truth[row[column]] if row[column] in truth else float(row[column]) for row in rows]
    except ValueError:
        raise InputError(f"{path}: the column {column!r} must hold numbers or True and False") from None
    named = all(len(words_of(row[text])) <= _NAME for row in rows)
    return [
        Sample(str(row.get("id", i)), row[text], value, phrase=named)
        for i, (row, value) in enumerate(zip(rows, values, strict=True))
    ]


def _count(texts: Sequence[str | None]) -> dict[str, float] | None:
    counts = Counter(word for text in texts if text for word in words_of(text))
    return {word: float(n) for word, n in counts.items()} or None


def _lines(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV ({error})") from None


def _table(path: Path) -> dict[str, float]:
    try:
        lines = path.read_text("utf-8").splitlines()
        pairs = [line.replace("\t", ",").rsplit(",", 1) for line in lines if line.strip()]
        return {word.strip().lower(): float(number) for word, number in pairs if number.strip()[:1].isdigit()}
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or error}): give lines of word,number"
        ) from None


def _classes(path: Path) -> dict[str, list[str]]:
    try:
        return {str(name): [str(w) for w in words] for name, words in json.loads(path.read_text("utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or error}): give JSON, class -> list of words"
        ) from None


def digest_of(files: Sequence[str]) -> str:
    """12 hexadecimal digits of the content of files; empty for none.

    Raises:
        InputError: one cannot be read.
    """
    total = hashlib.sha256()
    for name in files:
        try:
            total.update(Path(name).read_bytes())
        except OSError as error:
            raise InputError(f"{name} cannot be read ({error.strerror or error})") from None
    return total.hexdigest()[:12] if files else ""
