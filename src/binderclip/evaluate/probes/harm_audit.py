"""Harm audit: who is put into which class by the wording of the classes (Agarwal et al. 2021, arXiv 2108.02818).

With CLIP the user writes the classes, so the user's words decide who is hurt. Run it before a list of classes is shipped.
Groups are what observers noted, not who people are; no faces and no harmful words come with the library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binderclip.cards import Card
from binderclip.errors import InputError
from binderclip.evaluate.base import Example, Metric, Report, mean_of, plain, share
from binderclip.evaluate.data import Dataset, Sets
from binderclip.evaluate.harms import compare, label_vectors, open_labels, read_labels, skewed
from binderclip.evaluate.metrics.calibration import softmax
from binderclip.evaluate.metrics.classification import true_ranks
from binderclip.evaluate.vectors import Vectors

__all__ = ["HarmAudit"]

CARD = Card(
    slug="harm_audit",
    name="Harm audit",
    title="Evaluating CLIP: Towards Characterization of Broader Capabilities and Downstream Implications",
    arxiv="2108.02818",
    year=2021,
    room="evaluate",
    provides="HarmAudit",
    kind="Probe",
    files=("evaluate/harms.py", "evaluate/metrics/significance.py"),
    must_show={
        "null: 400 shuffles, 2 groups, n = 5,000, rate 20 %: 5 % +- 3.5 of p < 0.05; ci holds 0 in >= 92 % of 200": (
            "tests/evaluate/test_harm_audit.py::test_shuffled_groups_show_nothing"
        ),
        "planted: group B turned 10 degrees towards a harm label is detected, p < 1e-3 at n = 500 a group": (
            "tests/evaluate/test_harm_audit.py::test_a_turned_group_is_found"
        ),
        "adding labels never raises r_g(H)": "tests/evaluate/test_harm_audit.py::test_more_labels_never_raise_a_rate",
        "t = 0 keeps every label with p > 0, t = 1 none, kept labels never rise with t": (
            "tests/evaluate/test_harm_audit.py::test_thresholds"
        ),
        "Wilson equals the closed form; exact coverage in [0.93, 0.97] for the five (n, p)": (
            "tests/evaluate/test_harm_audit.py::test_wilson"
        ),
        "near-miss scorer: captions identical to the answer tie and count as wrong": (
            "tests/evaluate/test_harm_audit.py::test_near_misses"
        ),
        "dry run: brightness terciles of CIFAR-10 photos against 'a photo of nothing', under 30 s, disparity with ci": (
            "bench:evaluate_harm_audit"
        ),
    },
)

Floats = NDArray[Any]
Bools = NDArray[np.bool_]
FEW = 100
GRID = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)


@dataclass(frozen=True)
class HarmAudit:
    """``r_g(H)``: share of group g whose best class among base and harm labels is one of H; disparities between groups.

    Groups are the data's column ``group``. A label that begins with ``=`` is a whole sentence, the others go into the
    templates. ``extra`` labels come behind the others: ``D_g = r_g(L0 + H) - r_g(L0 + H + E)`` is what they change.
    Thresholds are on ``softmax(scale * cosines)`` over the vocabulary, with the model's own scale: they say nothing about
    another vocabulary.

    Args:
        base: legitimate labels; the data's class names otherwise.
        harms: name -> labels, as in ``{"non-human": ["animal"]}``; none is shipped.
        extra: labels to try in addition.
        templates: a named set or sentences.
        thresholds: t of the open labelling: labels with p > t are kept.
        vocabulary: labels of the open labelling; all the others together otherwise.
        subsets: name -> labels of the vocabulary that are reported together (occupations, appearance, status).
        labels: YAML or JSON file with the keys base, harms, extra, vocabulary, subsets, in place of those options.
        bootstrap: resamples.
        seed: of them.

    Raises:
        InputError: a file that cannot be read.
    """

    base: tuple[str, ...] = ()
    harms: Mapping[str, Sequence[str]] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    templates: str | tuple[str, ...] = ("a photo of a {}.",)
    thresholds: tuple[float, ...] = (0.005, 0.04)
    vocabulary: tuple[str, ...] = ()
    subsets: Mapping[str, Sequence[str]] = field(default_factory=dict)
    labels: str = ""
    bootstrap: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.labels:
            for key, value in read_labels(Path(self.labels)).items():
                object.__setattr__(self, key, value)
        if not isinstance(self.harms, Mapping) or not isinstance(self.subsets, Mapping):
            raise InputError('harms and subsets are mappings, as in harms={"non-human": ["animal", "object"]}')

    def run(self, vectors: Vectors, sets: Sets) -> Report:
        """Measure.

        Raises:
            InputError: no base labels and no class names, or a label that is given twice.
        """
        data = sets.test
        base = self.base or (data.classes if data.named else ())
        if not base:
            raise InputError("name the labels to choose from, as in base=[...], or give data with class names")
        harmful = [label for labels in self.harms.values() for label in labels]
        names = [*base, *harmful, *self.extra]
        notes = [
            "groups are what observers noted, not who people are",
            f"labels in this order, in {self.templates}: " + "; ".join(names),
        ]
        group = np.array([item.group or "(none)" for item in data.items])
        groups = sorted(set(group.tolist()))
        if len(groups) < 2:
            notes.append("one group only, so nothing to compare: give the data a column 'group'")
        notes += [f"group {g} has {n} items only" for g in groups if (n := int((group == g).sum())) < FEW]
        X = vectors.images(data.items)
        s = (X @ label_vectors(vectors, names, self.templates).T).astype(np.float64)
        known = len(base) + len(harmful)
        before, after = s[:, :known].argmax(axis=1), s.argmax(axis=1)
        sets_of = self._sets_of(len(base))
        numbers: list[Metric] = []
        for harm, members in sets_of.items():
            hit, then = np.isin(before, members), np.isin(after, members)
            numbers += self._of_harm(harm, hit, group)
            if self.extra:
                numbers += [_renamed(f"{harm}, with extra", g, then[group == g]) for g in groups]
                effects = [(g, (hit & ~then)[group == g].astype(np.float64)) for g in groups]
                numbers += [mean_of(f"{harm}, effect of extra: {g}", v, "", "share") for g, v in effects]
        numbers += _accuracies(vectors, data, X, self.templates, group)
        more, charts, kept = self._open(vectors, X, names, harmful, group, notes)
        harm_of = {k: harm for harm, members in sets_of.items() for k in members if harm != "any harm"}
        rows = tuple(
            {
                "id": item.id,
                "group": str(group[i]),
                "prediction": names[before[i]],
                "harm": harm_of.get(int(before[i]), ""),
                "prediction_with_extra": names[after[i]],
                **{f"labels_over_{t:g}": int(count[i]) for t, count in kept.items()},
            }
            for i, item in enumerate(data.items)
        )
        return Report(
            "harm_audit",
            vectors.name,
            data.name,
            tuple(numbers + more),
            rows,
            charts,
            _worst(data, s[:, :known], names, harm_of, group),
            tuple(notes),
        )

    def _sets_of(self, start: int) -> dict[str, list[int]]:
        """Columns of each harm set, and of all of them together."""
        out: dict[str, list[int]] = {}
        for harm, labels in self.harms.items():
            out[harm] = list(range(start, start + len(labels)))
            start += len(labels)
        if len(out) > 1:
            out["any harm"] = [k for members in list(out.values()) for k in members]
        return out

    def _of_harm(self, harm: str, hit: Bools, group: NDArray[Any]) -> list[Metric]:
        found = compare(hit, group, resamples=self.bootstrap, seed=self.seed)
        n = len(hit)
        numbers = [share(harm, hit, "lower")]
        if len(found.groups) > 1:
            numbers += [
                plain(f"{harm}: largest difference", found.largest_difference, n, "lower", "share"),
                plain(f"{harm}: largest ratio", found.largest_ratio, n, "lower"),
                plain(f"{harm}: p ({found.test})", found.p, n),
            ]
            numbers += [_renamed(harm, g, hit[group == g]) for g in found.groups]
        numbers += [
            Metric(f"{harm}: {a} - {b}", d, int(np.isin(group, (a, b)).sum()), low, high, "bootstrap", "", "share")
            for (a, b), (d, low, high) in found.pairs.items()
        ]
        return numbers

    def _open(
        self,
        vectors: Vectors,
        X: Floats,
        names: Sequence[str],
        harmful: Sequence[str],
        group: NDArray[Any],
        notes: list[str],
    ) -> tuple[list[Metric], tuple[dict[str, Any], ...], dict[float, Floats]]:
        """The open labelling: skewed labels, subsets, and the share of harmful ones by threshold."""
        V = list(self.vocabulary) or list(names)
        p = softmax(vectors.scale * (X @ label_vectors(vectors, V, self.templates).T).astype(np.float64))
        bad = np.isin(V, harmful)
        numbers: list[Metric] = []
        kept: dict[float, Floats] = {}
        for t in self.thresholds:
            have = open_labels(p, t)
            kept[t] = have.sum(axis=1)
            numbers.append(mean_of(f"labels over {t:g}", kept[t], ""))
            if bad.any():
                numbers.append(share(f"harmful label over {t:g}", have[:, bad].any(axis=1), "lower"))
            for subset, labels in self.subsets.items():
                hit = np.asarray(have[:, np.isin(V, list(labels))].any(axis=1), bool)
                numbers += [
                    share(f"{subset} over {t:g}: {g}", hit[group == g], "") for g in sorted(set(group.tolist()))
                ]
            if len(set(group.tolist())) > 1:
                table = skewed(have, V, group)
                numbers.append(plain(f"skewed labels over {t:g} (q <= 0.05)", sum(r.q <= 0.05 for r in table), len(X)))
                for g in sorted(set(group.tolist())):
                    best = [r for r in table if r.group == g and r.difference > 0][:20]
                    words = ", ".join(f"{r.label} {100 * r.difference:+.1f}" for r in best)
                    notes.append(
                        f"labels over {t:g} that go to {g} more than to the others, in points: {words or 'none'}"
                    )
        if not bad.any():
            return numbers, (), kept
        curve = [[t, float(have[:, bad].sum() / max(have.sum(), 1))] for t in GRID for have in [open_labels(p, t)]]
        chart = {"kind": "lines", "title": "Share of harmful labels by threshold", "x": "threshold", "y": "share"}
        return numbers, ({**chart, "series": {"harmful": curve}},), kept


def _renamed(harm: str, group: str, hit: Bools) -> Metric:
    return share(f"{harm}: {group}", hit, "lower")


def _accuracies(
    vectors: Vectors, data: Dataset, X: Floats, templates: str | tuple[str, ...], group: NDArray[Any]
) -> list[Metric]:
    """Zero-shot accuracy on the data's own labels by group: skill, apart from harm."""
    y = np.array([item.labels[0] if len(item.labels) == 1 else -1 for item in data.items])
    if not data.named or len(data.classes) < 2 or (y < 0).all():
        return []
    s = X @ label_vectors(vectors, data.classes, templates).T
    right = np.zeros(len(y), bool)
    right[y >= 0] = true_ranks(s[y >= 0], y[y >= 0]) < 1
    names = sorted(set(group[y >= 0].tolist()))
    return [share("accuracy", right[y >= 0])] + [
        share(f"accuracy: {g}", right[(y >= 0) & (group == g)]) for g in (names if len(names) > 1 else ())
    ]


def _worst(
    data: Dataset, s: Floats, names: Sequence[str], harm_of: Mapping[int, str], group: NDArray[Any]
) -> tuple[Example, ...]:
    first = s.argmax(axis=1)
    free = [k for k in range(s.shape[1]) if k not in harm_of]
    gap = s.max(axis=1) - s[:, free].max(axis=1)
    worst = [i for i in np.lexsort((data.ids, -gap)) if int(first[i]) in harm_of][:12]
    return tuple(
        Example(
            data.items[i].id, f"taken for {names[first[i]]}", f"group {group[i]}, {gap[i]:.3f} above the best other"
        )
        for i in worst
    )
