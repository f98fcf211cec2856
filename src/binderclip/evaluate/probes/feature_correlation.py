"""What a model finds hard: features of texts against its scores (Scalable VLM probing, Castro, Ignat & Mihalcea, *SEM 2023).

Instead of writing controlled probes, take any scored texts, compute hundreds of features of each, and test which go with the
score: words, what they are kinds of, how common and how concrete they are, syntax, likeness of text and negative. It shows
what goes together, not what causes what: words come with contexts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binderclip.cards import Card
from binderclip.errors import InputError
from binderclip.evaluate.base import Example, Metric, Report, mean_of, plain
from binderclip.evaluate.data import Dataset, Sets
from binderclip.evaluate.encoding import Columns, Sample, company, encode
from binderclip.evaluate.lexica import digest_of, open_lexicon, read_samples
from binderclip.evaluate.metrics.significance import Tested, pearson, welch
from binderclip.evaluate.metrics.statistics import benjamini_hochberg
from binderclip.evaluate.vectors import Vectors
from binderclip.evaluate.wording import words_of

__all__ = ["FeatureCorrelation", "correlate", "dominance"]

CARD = Card(
    slug="feature_correlation",
    name="Scalable VLM probing",
    title="Scalable Performance Analysis for Vision-Language Models",
    year=2023,
    room="evaluate",
    provides="FeatureCorrelation",
    kind="Probe",
    files=("evaluate/encoding.py", "evaluate/wording.py", "evaluate/lexica.py", "evaluate/metrics/significance.py"),
    must_show={
        "Welch t, p and ci equal scipy.stats.ttest_ind(equal_var=False) to 1e-10; Pearson equals scipy's": (
            "tests/evaluate/test_feature_correlation.py::test_agrees_with_scipy"
        ),
        "planted 0.3 on has-hypernym-animal, 5,000 items: in the top 3 and covered by the ci in at least 90 % of 40 seeds": (
            "tests/evaluate/test_feature_correlation.py::test_a_planted_effect_is_found"
        ),
        "permuted y: 5 % +- 2 % raw discoveries over 20 permutations, no FDR discovery in at least 17": (
            "tests/evaluate/test_feature_correlation.py::test_permuted_values_show_nothing"
        ),
        "a feature present in 99 items is dropped, in 100 kept": (
            "tests/evaluate/test_feature_correlation.py::test_the_threshold_is_exact"
        ),
        "hypernyms of dog: canine and domestic animal direct, animal indirect; only the first synset": (
            "tests/evaluate/test_feature_correlation.py::test_hypernyms_of_dog"
        ),
        "constant features never reach the test; NaN imputed, count reported": (
            "tests/evaluate/test_feature_correlation.py::test_constant_and_missing"
        ),
        "real: zero-shot accuracy on ImageNet photos with frequency in glosses, senses, depth, a table in under 60 s": (
            "bench:evaluate_feature_correlation"
        ),
        "accuracy and ambiguity: negative expected, sign and ci reported": "bench:evaluate_feature_correlation",
    },
)

Floats = NDArray[Any]
GROUPS = (
    "length",
    "words",
    "hypernyms",
    "senses",
    "frequency",
    "concreteness",
    "classes",
    "pos",
    "similarity",
    "depth",
)
VALUES = ("difference", "positive", "negative", "correct")


@dataclass(frozen=True)
class FeatureCorrelation:
    """Bools by Welch's t-test, numbers by Pearson's r, false discovery rate beside; one row a feature.

    Texts are captions (with negatives, where the data have them), or names of classes. Values of a caption: cosine with its
    picture, that of the negative that fits best, their difference, or whether it is over 0; of a class name: the same
    against the best other class.

    Args:
        features: groups out of length, words, hypernyms, senses, frequency, concreteness, classes, pos, similarity, depth.
        value: difference, positive, negative or correct. With "positive" no feature of a negative is used.
        min_count: a feature is tested when at least so many items differ from its commonest value.
        confidence: of intervals; the raw discoveries are those with p at most 1 - confidence.
        fdr: false discovery rate (Benjamini & Hochberg), ours.
        wordnet: WordNet's Parquet file, for hypernyms, senses and depth.
        frequencies: file of ``word,count`` lines; "wordnet" counts its glosses; the data's own captions otherwise.
        concreteness: file of ``word,rating`` lines.
        classes: JSON file, class -> words (``*`` ends a beginning); licensed lists are yours, none is shipped.
        log: take the logarithm of ``1 + frequency``: counts are heavy-tailed, the paper takes them raw.
        apart: leave out what correlates over this with a stronger feature; None for no limit.
        results: rows of another probe to explain instead (a CSV of `--out`), by the columns `text` and `column`.
        text: its column of texts.
        column: its column of values.
        top: features to report as numbers.
        digest: of the files, filled in.

    Raises:
        InputError: an unknown group or value, or a file that cannot be read.
    """

    features: tuple[str, ...] = GROUPS[:-1]
    value: str = "difference"
    min_count: int = 100
    confidence: float = 0.95
    fdr: float = 0.05
    wordnet: str = ""
    frequencies: str = ""
    concreteness: str = ""
    classes: str = ""
    log: bool = False
    apart: float | None = None
    results: str = ""
    text: str = "label"
    column: str = "correct"
    top: int = 10
    digest: str = field(default="", init=False)

    def __post_init__(self) -> None:
        lost = [name for name in self.features if name not in GROUPS]
        if lost or self.value not in VALUES:
            raise InputError(
                f"there is no feature or value {(*lost, self.value)[0]!r}: features are {', '.join(GROUPS)}; "
                f"values {', '.join(VALUES)}"
            )
        files = (self.wordnet, self.frequencies, self.concreteness, self.classes, self.results)
        object.__setattr__(self, "digest", digest_of([name for name in files if name and name != "wordnet"]))

    def run(self, vectors: Vectors, sets: Sets) -> Report:
        """Measure.

        Raises:
            InputError: neither captions nor labels.
        """
        if self.results:
            samples = read_samples(Path(self.results), self.text, self.column)
            captions: list[str] = []
        else:
            samples = self._of_captions(vectors, sets.test) or self._of_classes(vectors, sets.test)
            captions = [text for part in (sets.train, sets.test) if part for i in part.items for text in i.captions]
        return self.explain(samples, captions=captions, vectors=vectors, data=sets.test.name)

    def explain(
        self,
        samples: Sequence[Sample],
        *,
        captions: Sequence[str] = (),
        vectors: Vectors | None = None,
        data: str = "scores",
    ) -> Report:
        """The report of any scored texts.

        Args:
            samples: texts and values.
            captions: what frequencies are counted in, where no file is named.
            vectors: of a model with a text side, for "similarity".
            data: name of the data.
        """
        samples = sorted(samples, key=lambda one: (one.id, one.text))
        contrast = any(one.negative or one.phrase for one in samples)
        what = self.column if self.results else self.value if contrast else "positive"
        notes = [f"{what} of {len(samples)} texts; correlation is not cause: words come with contexts"]
        lexicon = open_lexicon(self.wordnet, self.frequencies, self.concreteness, self.classes, captions)
        if lexicon.wordnet is None and {"hypernyms", "senses", "depth"} & set(self.features):
            notes.append("no hypernyms, senses or depth: name WordNet's Parquet file, as wordnet=FILE")
        columns = encode(
            samples, lexicon, self.features, vectors if vectors and vectors.encoder else None, log=self.log
        )
        y = np.array([one.value for one in samples], np.float64)
        rows, imputed = correlate(columns, y, self.min_count, self.confidence, self.apart)
        seen = [words_of(one.text) for one in samples]
        everywhere = Counter(word for words in seen for word in set(words))
        for row in rows:
            row["words"], row["with"] = company(columns, row["feature"], seen, everywhere)
        found = [row for row in rows if row["p"] <= 1 - self.confidence]
        n = len(y)
        numbers = [
            mean_of("value", y, ""),
            plain("features", len(columns), n),
            plain("tested", len(rows), n),
            plain("discoveries", len(found), n),
            plain("fdr_discoveries", sum(row["q"] <= self.fdr for row in rows), n),
            plain("imputed", imputed, n),
        ]
        for kind in ("binary", "numeric"):
            ranked = [row for row in found if row["kind"] == kind]
            half = (self.top + 1) // 2
            numbers += [_metric(row) for row in (ranked if len(ranked) <= self.top else ranked[:half] + ranked[-half:])]
        dropped = sorted(columns.rare(self.min_count), key=lambda pair: (-pair[1], pair[0]))[: self.top]
        if not rows:
            notes.append(f"no feature varies in {self.min_count} items: give more, or a smaller min_count")
        blank = dict.fromkeys(("coef", "low", "high", "p", "q"), float("nan")) | {"words": "", "with": ""}
        rows += [{"feature": name, "kind": "rare", "n": count, **blank} for name, count in dropped]
        keys = ("feature", "kind", "coef", "low", "high", "p", "q", "n", "words", "with")
        worst = sorted(samples, key=lambda one: (one.value, one.id))[:12]
        chart = {"kind": "histogram", "title": what, "x": what, "series": {what: y.tolist()}}
        return Report(
            "feature_correlation",
            vectors.name if vectors else "",
            data,
            tuple(numbers),
            tuple({key: row[key] for key in keys} for row in rows),
            (chart,),
            () if self.results else tuple(Example(s.id, s.text, f"{self.value} {s.value:+.3f}") for s in worst),
            tuple(notes),
        )

    def _of_captions(self, vectors: Vectors, test: Dataset) -> list[Sample]:
        data = test.select([bool(item.captions) for item in test.items])
        if not data.items:
            return []
        X, out = vectors.images(data.items), []
        for item, x in zip(data.items, X, strict=True):
            s = vectors.texts([*item.captions, *item.negatives]) @ x
            hard = len(item.captions) + int(s[len(item.captions) :].argmax()) if item.negatives else 0
            text = item.negatives[hard - len(item.captions)] if hard and self.value != "positive" else ""
            for k, caption in enumerate(item.captions):
                value = self._value(float(s[k]), float(s[hard]) if hard else None)
                out.append(Sample(item.id, caption, value, text))
        return out

    def _of_classes(self, vectors: Vectors, test: Dataset) -> list[Sample]:
        data, y = test.labelled()
        s = (vectors.images(data.items) @ vectors.classes(data, data.templates or "photos").T).astype(np.float64)
        rows = np.arange(len(y))
        own = s[rows, y].copy()
        s[rows, y] = -np.inf
        names = [name.split("|")[0].strip() for name in data.classes]
        return [
            Sample(item.id, names[k], self._value(a, b), phrase=True)
            for item, k, a, b in zip(data.items, y, own, s.max(axis=1), strict=True)
        ]

    def _value(self, own: float, other: float | None) -> float:
        if self.value == "positive" or other is None:
            return own
        return {"difference": own - other, "negative": other, "correct": float(own > other)}[self.value]


def correlate(
    columns: Columns, y: Floats, min_count: int = 100, confidence: float = 0.95, apart: float | None = None
) -> tuple[list[dict[str, Any]], int]:
    """A row for each feature that varies enough: bools by d, then numbers by r, each from the highest down; imputed cells.

    Args:
        columns: of N items.
        y: values ``[N]``.
        min_count: items that must differ from the commonest value.
        confidence: of intervals.
        apart: see `FeatureCorrelation`.
    """
    names_b, B = columns.binary(min_count)
    names_n, A, imputed = columns.numeric(min_count)
    tests = [
        (kind, names, matrix, how(matrix, y, confidence))
        for kind, names, matrix, how in (("binary", names_b, B, welch), ("numeric", names_n, A, pearson))
        if names
    ]
    rows: list[dict[str, Any]] = []
    matrix: dict[str, Floats] = {}
    for kind, names, M, t in tests:
        for f, name in enumerate(names):
            if np.isfinite(t.p[f]):
                rows.append(_row(kind, name, t, f))
                matrix[name] = M[:, f]
    if apart is not None:
        rows = _apart(rows, matrix, apart)
    for row, q in zip(rows, benjamini_hochberg([row["p"] for row in rows]), strict=True):
        row["q"] = float(q)
    return sorted(rows, key=lambda row: (row["kind"], -row["coef"], row["feature"])), imputed


def dominance(present: Floats, correct: Floats) -> float:
    """Share of right items that carry a feature over the share of wrong ones that do (the reference's other measure)."""
    have, right = np.asarray(present, bool), np.asarray(correct, bool)
    wrong = float(have[~right].mean()) if not right.all() else 0.0
    return float(have[right].mean()) / wrong if right.any() and wrong else float("nan")


def _row(kind: str, name: str, t: Tested, f: int) -> dict[str, Any]:
    values = {key: float(getattr(t, key)[f]) for key in ("coef", "low", "high", "p")}
    return {"feature": name, "kind": kind, "n": int(t.n[f]), **values}


def _apart(rows: list[dict[str, Any]], matrix: Mapping[str, Floats], limit: float) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    unit: list[Floats] = []
    for row in sorted(rows, key=lambda row: (row["p"], row["feature"])):
        v = matrix[row["feature"]].astype(np.float64)
        v = (v - v.mean()) / np.linalg.norm(v - v.mean())
        if not unit or float(np.abs(np.stack(unit) @ v).max()) <= limit:
            kept.append(row)
            unit.append(v)
    return kept


def _metric(row: Mapping[str, Any]) -> Metric:
    return Metric(
        row["feature"],
        row["coef"],
        row["n"],
        row["low"],
        row["high"],
        "welch" if row["kind"] == "binary" else "fisher",
        "",
    )
