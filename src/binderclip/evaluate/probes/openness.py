"""Openness: what becomes of accuracy as the vocabulary grows (Ren et al. 2022, arXiv 2206.01986), and REPE against it.

An open-vocabulary model should stay right when names join the list. Extensibility scores all classes so far, stability the
first ones only; a drop comes from texts that compete, not from pictures that fit their own text less.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binderclip.cards import Card
from binderclip.data.hashing import Draws
from binderclip.data.templates import class_vectors, fill
from binderclip.data.templates import templates as sentences_of
from binderclip.errors import InputError
from binderclip.evaluate.base import Metric, Report, mean_of, plain, resampled
from binderclip.evaluate.data import Dataset, Sets
from binderclip.evaluate.metrics.geometry import alignment, uniformity
from binderclip.evaluate.vectors import Vectors

__all__ = ["REPE", "Growth", "Openness", "adversarial_names", "captions_near", "grow"]

CARD = Card(
    slug="openness",
    name="Openness of CLIP",
    title="Delving into the Openness of CLIP",
    arxiv="2206.01986",
    year=2022,
    room="evaluate",
    provides="Openness",
    kind="Probe",
    must_show={
        "K = 1: Acc-E = Acc-C, Acc-S undefined (NaN)": "tests/evaluate/test_openness.py::test_one_vocabulary",
        "stability curve is non-increasing for a fixed permutation, per image": (
            "tests/evaluate/test_openness.py::test_stability_never_rises"
        ),
        "incremental equals re-computing from scratch on 3 permutations (exact)": (
            "tests/evaluate/test_openness.py::test_from_scratch"
        ),
        "adversarial names: brute force on 50 equals the vectorised result; the own text again counts as wrong": (
            "tests/evaluate/test_openness.py::test_adversarial_names"
        ),
        "REPE: lambda = 0 identical logits (1e-6), r = y identical, without renormalisation the norm is at most 1": (
            "tests/evaluate/test_openness.py::test_repe"
        ),
        "on fixed images the margin median never rises with the vocabulary, alignment of true pairs changes by 0": (
            "tests/evaluate/test_openness.py::test_margins_fall_and_alignment_stays"
        ),
        "CIFAR-100, 20 superclasses, pocket: Acc-C - Acc-S > 15 points": (
            "missed:evaluate_openness: 10.6 points (68.1 - 57.5 %); 15.1 only once all 100 names have joined"
        ),
        "the same in under 60 s, uniformity of the 100 texts reported": "bench:evaluate_openness",
        "one WordNet noun outside the classes lowers accuracy by more than 0.5 points alone": "bench:evaluate_openness",
    },
)

Floats = NDArray[Any]
Ints = NDArray[np.int64]
_TIE = 1e-7  # the same text twice: its cosines differ by rounding alone


@dataclass(frozen=True)
class Openness:
    """``acc_c``: each vocabulary alone; ``acc_e``: vocabularies join, names and pictures; ``acc_s``: only names join.

    ``Acc-E(i) = mean_{j=0..K-1}`` accuracy on the pictures of ``U_j`` among the names of ``U_j``;
    ``Acc-S(i) = mean_{j=1..K-1}`` of the mean accuracy of the classes of ``V_i`` among ``U_j``, NaN for one vocabulary.
    Orders are hashed from (seed, vocabulary, trial). A tie is not correct.

    Args:
        groups: vocabulary -> class names; drawn ones of `size` classes otherwise. A name in two groups stays in the first.
        trials: orders for each vocabulary.
        seed: of the orders.
        templates: a named set or sentences; those of the data otherwise.
        size: classes of a drawn vocabulary.
        nouns: names outside the classes, each tried alone as one more candidate (single template "a photo of a {}.").
        top: worst nouns to report.
    """

    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    trials: int = 3
    seed: int = 42
    templates: str | tuple[str, ...] | None = None
    size: int = 5
    nouns: tuple[str, ...] = ()
    top: int = 10

    def run(self, vectors: Vectors, sets: Sets) -> Report:
        """Measure.

        Raises:
            InputError: no labels, a group of unknown names, no trial, or no item of any group.
        """
        if self.trials < 1 or self.size < 1:
            raise InputError("openness needs at least one trial and one class a vocabulary")
        data, y = sets.test.labelled()
        groups, notes = self._groups(data)
        W = vectors.classes(data, self.templates or data.templates or "photos")
        member = np.isin(y, np.concatenate(list(groups.values())))
        groups = {name: ks for name, ks in groups.items() if np.isin(y, ks).any()}
        if not groups:
            raise InputError(f"{data.name} has no item of any group: check the names")
        data, y = data.select(member), y[member]
        X = vectors.images(data.items)
        grown = grow((X @ W.T).astype(np.float64), y, list(groups.values()), trials=self.trials, seed=self.seed)
        numbers = self._numbers(grown, X, W, y)
        names = list(groups)
        if self.nouns:
            numbers += self._adversarial(vectors, data, X, y, notes)
        rows = tuple(
            {
                "id": item.id,
                "label": data.classes[k],
                "group": names[g],
                "margin_alone": float(a),
                "margin_open": float(b),
                "correct_alone": bool(a > 0),
                "correct_open": bool(b > 0),
            }
            for item, k, g, a, b in zip(
                data.items, y, grown.group, grown.margins[:, 0], grown.margins[:, -1], strict=True
            )
        )
        lines = {"extensibility": grown.curve_e.tolist(), "stability": grown.curve_s.tolist()}
        points = {name: [[j + 1, v] for j, v in enumerate(line)] for name, line in lines.items()}
        chart = {"kind": "lines", "title": "Accuracy as vocabularies join", "x": "vocabularies", "y": "accuracy"}
        return Report(
            "openness",
            vectors.name,
            data.name,
            tuple(numbers),
            rows,
            ({**chart, "series": points},) if len(groups) > 1 else (),
            notes=tuple(notes),
        )

    def _groups(self, data: Dataset) -> tuple[dict[str, Ints], list[str]]:
        known = {name.replace("_", " ").casefold(): k for k, name in enumerate(data.classes)}
        notes: list[str] = []
        if not self.groups:
            order = Draws(self.seed, "vocabularies").shuffled("classes", range(len(data.classes)))
            count = min(len(order), max(2, round(len(order) / self.size)))
            parts = np.array_split(np.array(order, np.int64), count)
            notes.append(f"{count} vocabularies were drawn: give groups for ones that mean something")
            return {f"vocabulary {i}": np.sort(part) for i, part in enumerate(parts)}, notes
        taken: set[int] = set()
        out: dict[str, Ints] = {}
        for group, members in self.groups.items():
            folded = [name.replace("_", " ").casefold() for name in members]
            lost = [name for name, key in zip(members, folded, strict=True) if key not in known]
            if lost:
                raise InputError(f"group {group!r} names {lost[0]!r}, which is no class of {data.name}")
            new = [known[key] for key in dict.fromkeys(folded) if known[key] not in taken]
            if len(new) < len(members):
                notes.append(f"{group}: {len(members) - len(new)} names are in an earlier group too and were left out")
            taken.update(new)
            if new:
                out[group] = np.array(new, np.int64)
        return out, notes

    def _numbers(self, grown: Growth, X: Floats, W: Floats, y: Ints) -> list[Metric]:
        fits, n = alignment(X, W[y]), len(y)
        K = grown.acc_e.shape[0]
        nan = float("nan")
        stable = (
            mean_of("acc_s", grown.acc_s.ravel(), unit="share") if K > 1 else plain("acc_s", nan, n, "higher", "share")
        )
        numbers = [
            mean_of("acc_c", grown.acc_c, unit="share"),
            mean_of("acc_e", grown.acc_e.ravel(), unit="share"),
            stable,
            plain("drop_e", float(grown.acc_c.mean() - grown.acc_e.mean()), n, "lower", "share"),
            plain("drop_s", float(grown.acc_c.mean() - grown.acc_s.mean()) if K > 1 else nan, n, "lower", "share"),
            mean_of("alignment", fits, "lower"),
            plain("text_uniformity", uniformity(W), len(W), "lower"),
        ]
        for name, at in (("margin_alone", 0), ("margin_open", -1)):
            values = grown.margins[:, at]
            numbers.append(resampled(name, lambda rows, v=values: float(np.median(v[rows])), n))  # type: ignore[misc]
        return numbers

    def _adversarial(self, vectors: Vectors, data: Dataset, X: Floats, y: Ints, notes: list[str]) -> list[Metric]:
        own = {name.replace("_", " ").casefold() for name in data.classes}
        nouns = [noun for noun in dict.fromkeys(self.nouns) if noun.replace("_", " ").casefold() not in own]
        W, V = (class_vectors(vectors, names, "photo") for names in (data.classes, nouns))
        before = float((X @ W.T).argmax(axis=1).__eq__(y).mean())
        worst, union = adversarial_names(X, y, W, nouns, V, top=self.top)
        notes.append("worst nouns: " + ", ".join(f"{name} {100 * (value - before):+.1f}" for name, value in worst))
        return [
            plain("adversarial_before", before, len(y), "higher", "share"),
            plain("adversarial_worst", worst[0][1], len(y), "higher", "share"),
            plain(f"adversarial_top{len(worst)}_together", union, len(y), "higher", "share"),
        ]


@dataclass(frozen=True)
class Growth:
    """What growing vocabularies did, for K of them and T trials.

    Args:
        acc_c: each alone ``[K]``.
        acc_e: extensibility ``[K, T]``.
        acc_s: stability ``[K, T]``, NaN for K = 1.
        curve_e: mean accuracy after j more vocabularies ``[K]``.
        curve_s: the same of the first one's classes ``[K]``.
        margins: ``s_true - max other`` of each item, alone and among 1, 2, ... more vocabularies of trial 0 ``[N, K]``.
        group: vocabulary of each item ``[N]``.
        correct: by (vocabulary, trial): ``[N, K]``, item i among the names of ``U_j``.
    """

    acc_c: Floats
    acc_e: Floats
    acc_s: Floats
    curve_e: Floats
    curve_s: Floats
    margins: Floats
    group: Ints
    correct: Mapping[tuple[int, int], NDArray[np.bool_]]


def grow(S: Floats, y: Ints, groups: Sequence[Ints], *, trials: int = 3, seed: int = 42) -> Growth:
    """Grow each vocabulary by the others, in hashed orders.

    Args:
        S: scores ``[N, C]`` of items for all classes.
        y: class of each item ``[N]``, each in one group.
        groups: K sets of classes that share none.
        trials: orders for each.
        seed: of the orders.
    """
    K, rows = len(groups), np.arange(len(y))
    group = np.array([next(g for g, ks in enumerate(groups) if k in ks) for k in y], np.int64)
    true, others = S[rows, y], np.array(S, np.float64)
    others[rows, y] = -np.inf
    best = np.stack([others[:, ks].max(axis=1) for ks in groups], axis=1)  # [N, K] best wrong name of each vocabulary
    acc_c = np.array([_share(true > best[:, g], group == g) for g in range(K)])
    acc_e, acc_s = np.full((K, trials), np.nan), np.full((K, trials), np.nan)
    curves_e, curves_s = [], []
    margins = np.full((len(y), K), np.nan)
    correct: dict[tuple[int, int], NDArray[np.bool_]] = {}
    for g in range(K):
        for trial in range(trials):
            order = [g, *Draws(seed, f"{g}/{trial}").shuffled("order", [k for k in range(K) if k != g])]
            seen = np.maximum.accumulate(best[:, order], axis=1)  # [N, K] best wrong name of U_0 .. U_{K-1}
            right = true[:, None] > seen
            place = np.argsort(order)[group]  # when an item's vocabulary joined
            curve = np.array([_share(right[:, j], place <= j) for j in range(K)])
            own = np.flatnonzero(group == g)
            stable = np.mean([right[own][y[own] == k].mean(axis=0) for k in np.unique(y[own])], axis=0)
            acc_e[g, trial] = curve.mean()
            acc_s[g, trial] = stable[1:].mean() if K > 1 else np.nan
            curves_e.append(curve)
            curves_s.append(stable)
            correct[g, trial] = right
            if trial == 0:
                margins[own] = true[own, None] - seen[own]
    return Growth(acc_c, acc_e, acc_s, np.mean(curves_e, axis=0), np.mean(curves_s, axis=0), margins, group, correct)


def adversarial_names(
    images: Floats, labels: Ints, class_texts: Floats, nouns: Sequence[str], noun_texts: Floats, top: int = 10
) -> tuple[list[tuple[str, float]], float]:
    """The nouns that, each added alone as one more candidate, hurt most: (name, accuracy); and the accuracy with all those.

    Args:
        images: unit rows ``[N, D]``.
        labels: ``[N]``.
        class_texts: unit rows ``[C, D]``.
        nouns: M names, none of them right for an item.
        noun_texts: unit rows ``[M, D]``.
        top: how many.

    Raises:
        InputError: no nouns.
    """
    if not len(nouns) or len(nouns) != len(noun_texts):
        raise InputError(f"{len(nouns)} nouns and {len(noun_texts)} vectors: give one vector a noun, at least one")
    X, y = np.asarray(images, np.float64), np.asarray(labels)
    s = X @ np.asarray(class_texts, np.float64).T
    rows = np.arange(len(y))
    true = s[rows, y]
    s[rows, y] = -np.inf
    limit = true - _TIE
    fine = limit > s.max(axis=1)
    accuracy = np.empty(len(nouns))
    for start in range(0, len(nouns), 1024):
        block = X @ np.asarray(noun_texts[start : start + 1024], np.float64).T
        accuracy[start : start + 1024] = (fine[:, None] & (limit[:, None] > block)).mean(axis=0)
    order = sorted(range(len(nouns)), key=lambda m: (accuracy[m], nouns[m]))[:top]
    together = X @ np.asarray(noun_texts, np.float64)[order].T
    union = float((fine & (limit > together.max(axis=1))).mean())
    return [(nouns[m], float(accuracy[m])) for m in order], union


class REPE:
    """Texts with retrieved captions mixed in: ``y'_c = (1 - lambda) y_c + lambda r_c``, r the mean of their unit rows.

    With `renormalize`, for each template: ``y'`` made unit, then the mean over templates, made unit. Without, one template
    and ``y'`` as it is: classes whose captions disagree get smaller logits. A class without captions stays as it was.

    Args:
        find: function from a query and a count to captions of the nearest pictures; see `captions_near`. They must not be
            those of the test pictures.
        lam: lambda.
        n: captions a class, of those that mention it.
        renormalize: see above.
        kept: captions asked for.
    """

    def __init__(
        self,
        find: Callable[[str, int], Sequence[str]],
        lam: float = 0.25,
        n: int = 100,
        renormalize: bool = True,
        kept: int = 1000,
    ) -> None:
        if not 0 <= lam <= 1 or n < 1:
            raise InputError(f"lambda {lam}, n {n}: use 0 to 1 and at least 1")
        self.find, self.lam, self.n, self.renormalize, self.kept = find, lam, n, renormalize, kept

    def texts(self, clip: Any, names: Sequence[str], templates: str | Sequence[str] = "photo") -> Floats:
        """Class vectors ``[C, D]`` for a model with `encode_text`."""
        sentences = sentences_of(templates)
        rows = []
        for name in names:
            Y = np.asarray(clip.encode_text([fill(sentence, name) for sentence in sentences]), np.float32)  # [T, D]
            pattern = re.compile(rf"\b{re.escape(name)}", re.IGNORECASE)
            said = [text for text in self.find(f"a photo of a {name}", self.kept) if pattern.search(text)][: self.n]
            r = np.asarray(clip.encode_text(said), np.float32).mean(axis=0) if said else None
            mixed = Y if r is None else (1 - self.lam) * Y + self.lam * r
            rows.append(_unit(_unit(mixed).mean(axis=0)) if self.renormalize else mixed[0])
        return np.stack(rows)


def captions_near(clip: Any, images: Floats, captions: Sequence[str]) -> Callable[[str, int], list[str]]:
    """A search of captions by the pictures they belong to: the nearest pictures' captions come first.

    Args:
        clip: with `encode_text`.
        images: unit rows ``[N, D]``.
        captions: one a picture.
    """

    def find(query: str, count: int) -> list[str]:
        s = images @ np.asarray(clip.encode_text([query]), np.float32)[0]
        return [captions[int(i)] for i in np.argsort(-s, kind="stable")[:count]]

    return find


def _share(right: NDArray[np.bool_], which: NDArray[np.bool_]) -> float:
    return float(right[which].mean()) if which.any() else float("nan")


def _unit(x: Floats) -> Floats:
    out: Floats = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    return out
