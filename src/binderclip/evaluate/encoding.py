"""Scored texts to columns of features: bools by the rows that have them, numbers with NaN where nothing is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binderclip.evaluate.vectors import Vectors
from binderclip.evaluate.wording import CONTENT, Lexicon, chunks, sentence_features, tags_of, words_of

__all__ = ["Columns", "Sample", "company", "differing", "encode"]

Floats = NDArray[np.float64]
Role = list[tuple[str, str]]  # words and their tags


@dataclass(frozen=True)
class Sample:
    """One scored text.

    Args:
        id: of its item.
        text: what was scored.
        value: the score, its difference from that of the negative, or 1 for right and 0 for wrong.
        negative: the text that does not fit.
        phrase: the text is one name ("ice bear"), not a sentence.
    """

    id: str
    text: str
    value: float
    negative: str = ""
    phrase: bool = False


@dataclass
class Columns:
    """Features of N items.

    Args:
        n: items.
        rows: of each bool, the items that have it.
        carriers: of each bool, how often which word brought it.
        numbers: values ``[N]``, NaN where unknown.
    """

    n: int
    rows: dict[str, list[int]] = field(default_factory=dict)
    carriers: dict[str, Counter[str]] = field(default_factory=dict)
    numbers: dict[str, Floats] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows) + len(self.numbers)

    def mark(self, name: str, row: int, word: str = "") -> None:
        """Item `row` has the feature, through a word."""
        have = self.rows.setdefault(name, [])
        if not have or have[-1] != row:
            have.append(row)
        if word:
            self.carriers.setdefault(name, Counter())[word] += 1

    def number(self, name: str, row: int, value: float) -> None:
        """A number of item `row`."""
        if name not in self.numbers:
            self.numbers[name] = np.full(self.n, np.nan)
        self.numbers[name][row] = value

    def binary(self, min_count: int) -> tuple[list[str], NDArray[np.bool_]]:
        """Names and columns ``[N, F]`` of the bools that vary enough; of equal columns all stay."""
        names = sorted(name for name in self.rows if self._varies(name) >= min_count)
        out = np.zeros((self.n, len(names)), bool)
        for f, name in enumerate(names):
            out[self.rows[name], f] = True
        return names, out

    def numeric(self, min_count: int) -> tuple[list[str], Floats, int]:
        """Names and columns ``[N, G]``, standardised, NaN set to the mean, of the numbers that vary enough; NaN cells."""
        names = sorted(name for name in self.numbers if differing(self.numbers[name]) >= min_count)
        columns, imputed = [], 0
        for name in list(names):
            v = self.numbers[name]
            known = ~np.isnan(v)
            if not known.any() or float(np.ptp(v[known])) == 0.0:  # it differs by NaN alone
                names.remove(name)
                continue
            imputed += int((~known).sum())
            columns.append(np.where(known, (v - v[known].mean()) / v[known].std(), 0.0))
        return names, np.stack(columns, axis=1) if columns else np.zeros((self.n, 0)), imputed

    def rare(self, min_count: int) -> list[tuple[str, int]]:
        """Features that vary too little, with the number of items that differ."""
        counts = [(name, self._varies(name)) for name in self.rows]
        counts += [(name, differing(v)) for name, v in self.numbers.items()]
        return [(name, count) for name, count in counts if count < min_count]

    def _varies(self, name: str) -> int:
        return min(len(self.rows[name]), self.n - len(self.rows[name]))


def differing(values: Floats) -> int:
    """Items that differ from the commonest value; NaN is never that value, and an item with NaN differs."""
    known = values[~np.isnan(values)]
    commonest = int(np.unique(known, return_counts=True)[1].max()) if len(known) else 0
    return len(values) - commonest


def encode(
    samples: Sequence[Sample],
    lexicon: Lexicon,
    features: Sequence[str],
    vectors: Vectors | None = None,
    *,
    log: bool = False,
) -> Columns:
    """Features of each text.

    Roles: `original` and `replacement` are what a negative changed, `common` what it kept, `word` all words where there is
    no negative; `change` is original - replacement, of numbers.

    Args:
        samples: N texts.
        lexicon: what is known of words.
        features: groups, see `FeatureCorrelation`.
        vectors: of a model with a text side, for "similarity".
        log: logarithm of ``1 + frequency``.
    """
    out = Columns(len(samples))
    for row, one in enumerate(samples):
        words = words_of(one.text)
        tags = tags_of(words)
        if one.phrase:
            _of_words(out, row, {"word": _phrase(words, lexicon)}, lexicon, features, log)
            continue
        if "length" in features:
            out.number("words", row, len(words))
            out.number("noun chunks", row, chunks(tags))
        if "pos" in features:
            for name, value in sentence_features(words, tags).items():
                if value is not False:
                    out.mark(name if value is True else f"{name}={value}", row)
        _of_words(out, row, _roles(words, tags, one.negative), lexicon, features, log)
    if "similarity" in features and vectors is not None:
        _similarity(out, samples, vectors)
    return out


def company(columns: Columns, name: str, seen: Sequence[list[str]], everywhere: Mapping[str, int]) -> tuple[str, str]:
    """The commonest words that carry a feature, and content words that stand beside them more than elsewhere."""
    rows = columns.rows.get(name)
    if rows is None:
        return "", ""
    carriers = columns.carriers.get(name, Counter())
    beside = Counter(word for i in rows for word in set(seen[i]) if word not in carriers and len(word) > 2)
    content = {word for word, tag in zip(beside, tags_of(list(beside)), strict=True) if tag in CONTENT}
    lift = {word: n * n / everywhere[word] for word, n in beside.items() if word in content and n > 1}
    others = sorted(lift, key=lambda word: (-lift[word], word))[:5]
    return ", ".join(word for word, _ in sorted(carriers.items(), key=lambda p: (-p[1], p[0]))[:5]), ", ".join(others)


def _phrase(words: list[str], lexicon: Lexicon) -> Role:
    """A name as one noun where WordNet knows it, else its last word."""
    whole = " ".join(words)
    if len(words) < 2 or lexicon.synset(whole, "NN") is not None:
        return [(whole, "NN")] if words else []
    return [(words[-1], "NN")]


def _roles(words: list[str], tags: list[str], negative: str) -> dict[str, Role]:
    own = [(word, tag) for word, tag in zip(words, tags, strict=True) if tag in CONTENT]
    if not negative:
        return {"word": own}
    others = words_of(negative)
    theirs = [(word, tag) for word, tag in zip(others, tags_of(others), strict=True) if tag in CONTENT]
    return {
        "original": [pair for pair in own if pair[0] not in others],
        "replacement": [pair for pair in theirs if pair[0] not in words],
        "common": [pair for pair in own if pair[0] in others],
    }


def _of_words(
    out: Columns, row: int, roles: Mapping[str, Role], lexicon: Lexicon, features: Sequence[str], log: bool
) -> None:
    numbers: dict[str, dict[str, float]] = {}
    for role, pairs in roles.items():
        for word, tag in dict.fromkeys(pairs):
            for name in _labels(word, tag, lexicon, features):
                out.mark(f"{role}: {name}", row, word)
        numbers[role] = _means(pairs, lexicon, features, log)
        for name, value in numbers[role].items():
            out.number(f"{role}: {name}", row, value)
    if "original" in roles:
        for name, value in numbers["original"].items():
            if name in numbers["replacement"]:
                out.number(f"change: {name}", row, value - numbers["replacement"][name])


def _labels(word: str, tag: str, lexicon: Lexicon, features: Sequence[str]) -> Iterable[str]:
    if "words" in features:
        yield f"word {word}"
    if "hypernyms" in features and lexicon.wordnet is not None:
        direct, above, _, _ = lexicon.facts(word, tag)
        yield from (f"kind of {name}" for name in sorted(direct))
        yield from (f"far kind of {name}" for name in sorted(above))
    if "classes" in features:
        yield from (f"class {name}" for name in sorted(lexicon.classes_of(word)))


def _means(pairs: Role, lexicon: Lexicon, features: Sequence[str], log: bool) -> dict[str, float]:
    """Numbers of a role's words, averaged; NaN if one of them has none, or there are no words."""
    tables: dict[str, list[float]] = {}
    if lexicon.wordnet is not None:
        facts = [lexicon.facts(word, tag) for word, tag in pairs]
        tables |= {"senses": [one[2] for one in facts]} if "senses" in features else {}
        tables |= {"depth": [one[3] for one in facts]} if "depth" in features else {}
    if lexicon.frequencies is not None and "frequency" in features:
        counts = [lexicon.frequency(word) for word, _ in pairs]
        tables["log frequency" if log else "frequency"] = [float(np.log1p(c)) for c in counts] if log else counts
    if lexicon.concreteness is not None and "concreteness" in features:
        tables["concreteness"] = [float(lexicon.concreteness.get(word, np.nan)) for word, _ in pairs]
    return {name: float(np.mean(values)) if values else float("nan") for name, values in tables.items()}


def _similarity(out: Columns, samples: Sequence[Sample], vectors: Vectors) -> None:
    rows = [i for i, one in enumerate(samples) if one.negative]
    if not rows:
        return
    whole = _cosines(vectors, [(samples[i].text, samples[i].negative) for i in rows])
    changed: list[Any] = []
    for i in rows:
        words, others = words_of(samples[i].text), words_of(samples[i].negative)
        pair = " ".join(w for w in words if w not in others), " ".join(w for w in others if w not in words)
        changed.append(pair if all(pair) else None)
    for i, value in zip(rows, whole, strict=True):
        out.number("cosine of text and negative", i, float(value))
    known = [k for k, pair in enumerate(changed) if pair]
    if known:
        for k, value in zip(known, _cosines(vectors, [changed[k] for k in known]), strict=True):
            out.number("cosine of original and replacement", rows[k], float(value))


def _cosines(vectors: Vectors, pairs: Sequence[tuple[str, str]]) -> Floats:
    a, b = (vectors.texts([pair[side] for pair in pairs]).astype(np.float64) for side in (0, 1))
    out: Floats = (a * b).sum(axis=1)
    return out
