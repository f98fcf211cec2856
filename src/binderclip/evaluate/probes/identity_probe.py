"""Face audit: how well a CLIP and its index recognise whom nobody enrolled (Bhat & Jain 2023, arXiv 2301.07315).

For deciding whether an index may be published, and what would have to be done first. The library ships no faces, no names
and no detector: bring identities that consented, or synthetic ones; products and animals can be audited alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binderclip.cards import Card
from binderclip.data.hashing import Draws, uniform
from binderclip.data.media import open_image
from binderclip.data.templates import class_vectors
from binderclip.errors import InputError
from binderclip.evaluate.base import Metric, Report, mean_of, plain, share
from binderclip.evaluate.cloak import cloak, jpeg
from binderclip.evaluate.data import Dataset, Item, Sets
from binderclip.evaluate.metrics.classification import true_ranks
from binderclip.evaluate.metrics.ranking import auroc, average_precision
from binderclip.evaluate.metrics.verification import accept_threshold, equal_error
from binderclip.evaluate.models import TorchEncoder
from binderclip.evaluate.vectors import Vectors

__all__ = ["IdentityProbe", "invented_names", "poisoned_precision"]

CARD = Card(
    slug="identity_probe",
    name="Face audit",
    title="Face Recognition in the age of CLIP & Billion image datasets",
    arxiv="2301.07315",
    year=2023,
    room="evaluate",
    provides="IdentityProbe",
    kind="Probe",
    files=("evaluate/cloak.py", "evaluate/metrics/verification.py"),
    must_show={
        "random embeddings: rank-1 = 1/C within 3 sigma, AUC and EER 0.5 +- 0.02 at 10,000 pairs": (
            "tests/evaluate/test_identity_probe.py::test_random_vectors_are_chance"
        ),
        "identity oracle: rank-1 1.0, TAR@FAR 1e-3 1.0": (
            "tests/evaluate/test_identity_probe.py::test_an_oracle_knows_everybody"
        ),
        "metrics against scikit-learn's roc_curve on 10,000 scores (1e-9)": (
            "tests/evaluate/test_identity_probe.py::test_metrics_agree_with_sklearn"
        ),
        "permuted names: mean over 50 permutations within 3 standard errors of 1/C": (
            "tests/evaluate/test_identity_probe.py::test_permuted_names_are_chance"
        ),
        "cloak: eps = 0 changes nothing, |d| <= eps": (
            "tests/evaluate/test_identity_probe.py::test_cloaks_keep_their_bound"
        ),
        "size correlation printed over models": "tests/evaluate/test_identity_probe.py::test_sizes",
        "pocket on augmented stamps: rank-1 > 0.8 at 100 identities, falls with C": "bench:evaluate_identity_probe",
        "cloak on the same model: rank-1 drops by 30 points at 8/255, JPEG 75 restores a part": (
            "bench:evaluate_identity_cloaks"
        ),
    },
)

Floats = NDArray[Any]
Ints = NDArray[np.int64]
TEMPLATES = ("a photo of {}", "a photo of the face of {}", "a portrait of {}")
PAIRS, DRAWS = 20_000, 10


@dataclass(frozen=True)
class IdentityProbe:
    """Classes of the data are identities; `outliers` are the distractors of the index. Reports hold ids, never names.

    ``rankN``: queries whose identity is among the N nearest of those with `shots` enrolled pictures; ``_C100``: of 100
    drawn identities. ``name_acc1_C100``: by name among 100 names, beside invented names, which must stay at chance.
    ``dir``: enrolled queries that are right and above what 1 % of strangers exceed. ``auc``, ``eer``, ``tar_at_far``:
    verification of pairs, thresholds from other identities. ``index_leakage``: precision at 10 less chance. ``cloak_*``:
    rank-1 with queries or enrolled pictures cloaked.

    Args:
        tests: which of "name", "gallery", "verify", "index", "cloak".
        shots: enrolled pictures an identity.
        far: false accepts, of ``tar_at_far``.
        eps: of the cloaks.
        steps: of the cloaks.
        seed: of all draws.
        counts: numbers of identities C.
        consent: that the people agreed to be looked up by name; without it nothing is measured by name.
        duplicate: pictures of an identity with a cosine over this are one picture.
        most: pictures that are cloaked.
    """

    tests: tuple[str, ...] = ("name", "gallery", "verify", "index", "cloak")
    shots: int = 1
    far: float = 1e-3
    eps: float = 8 / 255
    steps: int = 50
    seed: int = 0
    counts: tuple[int, ...] = (10, 100, 1000)
    consent: bool = False
    duplicate: float = 0.98
    most: int = 50

    def run(self, vectors: Vectors, sets: Sets) -> Report:
        """Measure.

        Raises:
            InputError: no labels, or fewer than two identities with more pictures than are enrolled.
        """
        known = _Known.of(vectors, sets.test, self)
        notes = [f"{known.dropped} near-duplicates were left out"] if known.dropped else []
        S = known.scores()  # [queries, identities]
        ranks = true_ranks(S, known.y[known.query])
        numbers = _gallery(self, known, S, ranks) if "gallery" in self.tests else []
        if "verify" in self.tests:
            numbers += _verify(self, known, notes)
        W = None
        if "name" in self.tests and not (self.consent and sets.test.named):
            notes.append("nothing was measured by name: set consent=true where the people agreed")
        elif "name" in self.tests:
            W = class_vectors(vectors, [sets.test.classes[k] for k in known.classes], TEMPLATES)
            numbers += _names(self, known, W, class_vectors(vectors, invented_names(len(W), self.seed), TEMPLATES))
        if "index" in self.tests:
            numbers += _index(known, vectors, sets.outliers, W, notes)
        if "cloak" in self.tests:
            numbers += _cloaks(self, known, vectors, notes)
        rows = tuple(
            {"id": known.items[i].id, "rank": int(r) + 1, "correct": bool(r < 1), "group": known.items[i].group}
            for i, r in zip(known.query, ranks, strict=True)
        )
        return Report("identity_probe", vectors.name, sets.test.name, tuple(numbers), rows, notes=tuple(notes))


@dataclass(frozen=True)
class _Known:
    """Pictures by id order: vectors, identities 0 .. C-1, which are enrolled and which ask."""

    items: tuple[Item, ...]
    X: Floats
    y: Ints
    enrolled: Ints
    query: Ints
    classes: tuple[int, ...]
    dropped: int

    @classmethod
    def of(cls, vectors: Vectors, test: Dataset, probe: IdentityProbe) -> _Known:
        data, labels = test.labelled()
        order = np.argsort(data.ids, kind="stable")
        items, labels = [data.items[i] for i in order], labels[order]
        X = vectors.images(items)
        keep: list[int] = []
        by: dict[int, list[int]] = {}
        seen: set[str] = set()
        for i, item in enumerate(items):
            own = by.setdefault(int(labels[i]), [])
            if item.key in seen or (own and float((X[own] @ X[i]).max()) > probe.duplicate):
                continue
            seen.add(item.key)
            own.append(i)
            keep.append(i)
        u = uniform(probe.seed, data.ids)[order]
        classes = tuple(k for k in sorted(by) if len(by[k]) > probe.shots)
        if len(classes) < 2 or probe.shots < 1:
            raise InputError(
                f"{test.name} has {len(classes)} identities with more than {probe.shots} different pictures: "
                "give at least two, or fewer shots"
            )
        new = {k: n for n, k in enumerate(classes)}
        kept = np.array([i for i in keep if int(labels[i]) in new], np.int64)
        y = np.array([new[int(labels[i])] for i in kept], np.int64)
        first = np.zeros(len(kept), bool)
        for n in range(len(classes)):
            rows = np.flatnonzero(y == n)
            first[rows[np.argsort(u[kept[rows]], kind="stable")][: probe.shots]] = True
        chosen = tuple(items[i] for i in kept)
        parts = np.flatnonzero(first), np.flatnonzero(~first)
        return cls(chosen, X[kept], y, *parts, classes, len(items) - len(keep))

    def scores(self, X: Floats | None = None, E: Floats | None = None, query: Ints | None = None) -> Floats:
        """Nearest enrolled picture of each identity ``[queries, C]``."""
        Q = (self.X if X is None else X)[self.query if query is None else query]
        s = Q @ (self.X if E is None else E)[self.enrolled].T
        out = np.full((len(Q), len(self.classes)), -np.inf)
        for k, owner in enumerate(self.y[self.enrolled]):
            out[:, owner] = np.maximum(out[:, owner], s[:, k])
        return out

    def drawn(self, C: int, draw: int, seed: int) -> tuple[Ints, Ints]:
        """C drawn identities, and which queries are theirs (positions)."""
        who = np.array(Draws(seed, f"C{C}/{draw}").shuffled("who", range(len(self.classes)))[:C], np.int64)
        return who, np.flatnonzero(np.isin(self.y[self.query], who))


def _gallery(probe: IdentityProbe, known: _Known, S: Floats, ranks: Ints) -> list[Metric]:
    yq, C = known.y[known.query], len(known.classes)
    means = np.zeros((C, known.X.shape[1]))
    np.add.at(means, known.y[known.enrolled], known.X[known.enrolled])
    centred = known.X[known.query] @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    pictures = known.X[known.query] @ known.X[known.enrolled].T
    precision = [average_precision(s, known.y[known.enrolled] == k) for s, k in zip(pictures, yq, strict=True)]
    numbers = [
        share("rank1", ranks < 1),
        share("rank5", ranks < 5),
        share("rank1_of_means", true_ranks(centred, yq) < 1),
    ]
    numbers += [mean_of("mAP", precision, unit="share"), plain("chance", 1 / C, len(yq), "", "share")]
    for count in sorted({c for c in probe.counts if c <= C}):
        found = []
        for draw in range(DRAWS):
            who, rows = known.drawn(count, draw, probe.seed)
            found.append(float((true_ranks(S[np.ix_(rows, who)], _at(who, yq[rows])) < 1).mean()))
        numbers.append(mean_of(f"rank1_C{count}", found, unit="share"))
    strangers = uniform(probe.seed + 1, [str(k) for k in range(C)]) < 0.3
    if strangers.any() and not strangers.all():
        own = np.flatnonzero(~strangers)
        best = S[strangers[yq]][:, own].max(axis=1)
        inside = S[~strangers[yq]][:, own]
        right = true_ranks(inside, _at(own, yq[~strangers[yq]])) < 1
        numbers.append(share("dir_at_far_0.01", right & (inside.max(axis=1) > accept_threshold(best, 0.01))))
    groups = [known.items[i].group for i in known.query]
    if 1 < len(set(groups)) <= 20:
        numbers += [share(f"rank1_{g or 'none'}", ranks[np.array(groups) == g] < 1) for g in sorted(set(groups))]
    return numbers


def _at(who: Ints, y: Ints) -> Ints:
    """Positions of identities within a choice of them."""
    order = np.argsort(who)
    return order[np.searchsorted(who, y, sorter=order)]


def _names(probe: IdentityProbe, known: _Known, W: Floats, invented: Floats) -> list[Metric]:
    yq, numbers = known.y[known.query], []
    for count in sorted({c for c in probe.counts if c <= len(W)} or {len(W)}):
        for label, texts in (("name", W), ("invented", invented)):
            S = known.X[known.query] @ texts.T
            one, five = [], []
            for draw in range(DRAWS):
                who, rows = known.drawn(count, draw, probe.seed)
                # invented names are dealt out anew in each draw, so that their mean is chance
                dealt = Draws(probe.seed, f"dealt/{count}/{draw}").shuffled("to", range(len(W)))[:count]
                columns = who if label == "name" else np.array(dealt, np.int64)
                place = true_ranks(S[np.ix_(rows, columns)], _at(who, yq[rows]))
                one.append(float((place < 1).mean()))
                five.append(float((place < 5).mean()))
            numbers += [mean_of(f"{label}_acc1_C{count}", one, unit="share")]
            numbers += [mean_of(f"{label}_acc5_C{count}", five, unit="share")] if count > 5 else []
        numbers.append(plain(f"name_chance_C{count}", 1 / count, count, "", "share"))
    return numbers


def _verify(probe: IdentityProbe, known: _Known, notes: list[str]) -> list[Metric]:
    order = np.argsort(uniform(probe.seed + 2, [str(k) for k in range(len(known.classes))]), kind="stable")
    half = len(order) // 2
    (_, fit), (genuine, impostor) = (_pairs(known, part, probe.seed) for part in (order[:half], order[half:]))
    if not len(genuine) or not len(impostor):
        notes.append("verification needs at least four identities: not measured")
        return []
    scores = np.concatenate([genuine, impostor])
    positive = np.arange(len(scores)) < len(genuine)
    n = len(scores)
    numbers = [
        plain("auc", auroc(scores, positive), n, "higher"),
        plain("eer", equal_error(scores, positive), n, "lower"),
    ]
    for far in sorted({probe.far, 1e-2}):
        enough = len(fit) * far >= 10 and len(impostor) * far >= 10
        if not enough:
            notes.append(f"a rate of {far:g} needs {int(np.ceil(10 / far)):,} impostor pairs: not given")
        limit = accept_threshold(fit, far) if enough else np.nan
        value = float((genuine > limit).mean()) if enough else float("nan")
        numbers.append(plain(f"tar_at_far_{far:g}", value, len(genuine), "higher", "share"))
    return numbers


def _pairs(known: _Known, identities: Ints, seed: int) -> tuple[Floats, Floats]:
    """Cosines of all genuine and of all impostor pairs of some identities; drawn where there are more than 20,000."""
    rows = np.flatnonzero(np.isin(known.y, identities))
    a, b = np.triu_indices(len(rows), 1)
    same = known.y[rows[a]] == known.y[rows[b]]
    out = []
    for kind, mask in (("genuine", same), ("impostor", ~same)):
        at = np.flatnonzero(mask)
        if len(at) > PAIRS:
            at = at[np.argsort(Draws(seed, kind).array("pairs", len(at)), kind="stable")[:PAIRS]]
        out.append((known.X[rows[a[at]]] * known.X[rows[b[at]]]).sum(axis=1))
    return out[0], out[1]


def _index(
    known: _Known, vectors: Vectors, distractors: Dataset | None, W: Floats | None, notes: list[str]
) -> list[Metric]:
    pool = known.X
    if distractors is None:
        notes.append("no distractors: the index holds the identities' pictures alone; give --outliers")
    else:
        pool = np.concatenate([pool, vectors.images(distractors.items)])
    owner = np.concatenate([known.y, np.full(len(pool) - len(known.y), -1)])
    numbers = []
    for label, queries in (("photo", known.X[known.enrolled]), ("name", W)):
        if queries is None:
            continue
        who = known.y[known.enrolled] if label == "photo" else np.arange(len(queries))
        precision, leak = [], []
        for q, k in enumerate(who):
            s = pool @ queries[q]
            if label == "photo":
                s[known.enrolled[q]] = -np.inf  # the photo itself is no find
            left = len(pool) - (label == "photo")
            top = np.argsort(-s, kind="stable")[: min(10, left)]
            precision.append(float((owner[top] == k).mean()))
            leak.append(precision[-1] - float((owner == k).sum() - (label == "photo")) / left)
        numbers += [
            mean_of(f"index_p10_{label}", precision, "", "share"),
            mean_of(f"index_leakage_{label}", leak, "lower"),
        ]
    return numbers


def _cloaks(probe: IdentityProbe, known: _Known, vectors: Vectors, notes: list[str]) -> list[Metric]:
    clip = vectors.encoder.clip if isinstance(vectors.encoder, TorchEncoder) else None
    if clip is None or any(item.image is None for item in known.items):
        notes.append("cloaks need gradients: run the probe on a torch CLIP, as of binderclip.load")
        return []
    centres = np.stack([known.X[known.y == k].mean(axis=0) for k in range(len(known.classes))])
    far = (centres @ centres.T).argmin(axis=1)  # the identity that is least like each
    goal = centres[far] / np.linalg.norm(centres[far], axis=1, keepdims=True)

    def cloaked(which: Ints) -> tuple[Floats, Floats]:
        """All vectors with some replaced by those of their cloaks, and by those of the cloaks as JPEG files."""
        originals = [open_image(known.items[i].image).image for i in which]
        pictures = [
            cloak(clip, one, goal[known.y[i]], probe.eps, probe.steps) for one, i in zip(originals, which, strict=True)
        ]
        out = []
        for made in (pictures, [jpeg(one, 75) for one in pictures]):
            X = known.X.copy()
            X[which] = vectors.images([Item(str(k), one) for k, one in enumerate(made)])
            out.append(X)
        return out[0], out[1]

    asked = known.query[: probe.most]
    shown = known.enrolled[: probe.most]
    owned = known.query[np.isin(known.y[known.query], known.y[shown])]
    (X, X_jpeg), (E, _) = cloaked(asked), cloaked(shown)
    tests = [("clean", None, None, asked), ("queries", X, None, asked), ("queries_jpeg75", X_jpeg, None, asked)]
    return [
        share(f"cloak_{name}_rank1", true_ranks(known.scores(Q, G, rows), known.y[rows]) < 1, "")
        for name, Q, G, rows in [*tests, ("enrolled", None, E, owned)]
    ]


def invented_names(count: int, seed: int = 0) -> list[str]:
    """Names of nobody, two words of drawn syllables each: the control of names."""
    syllables = "ba ce di fo gu la me ni ro tu va ze ka li mo pe ra so ti wen".split()
    found: dict[str, None] = {}
    number = 0
    while len(found) < count:
        draws, number = Draws(seed, f"name/{number}"), number + 1
        words = ["".join(draws.choice(f"{w}{i}", syllables) for i in range(2 + w)) for w in range(2)]
        found[" ".join(word.title() for word in words)] = None
    return list(found)


def poisoned_precision(
    captions: Floats,
    owner: Sequence[int],
    query: Floats,
    one: int,
    other: int,
    share: float,
    *,
    seed: int = 0,
    k: int = 10,
) -> float:
    """Precision at k of the WRONG identity for a query by name, when a share of two identities' captions are swapped.

    Args:
        captions: unit rows ``[N, D]`` by which an index is searched.
        owner: identity of each row's picture.
        query: unit vector ``[D]`` of the name of `one`.
        one: the identity that is asked for.
        other: the identity whose captions are swapped with its own.
        share: 0 to 1, of the smaller number of rows.
        seed: of the choice of rows.
        k: rows looked at.
    """
    who = np.asarray(owner)
    a, b = (Draws(seed, f"poison/{x}").shuffled("rows", np.flatnonzero(who == x).tolist()) for x in (one, other))
    T = np.array(captions)
    n = round(share * min(len(a), len(b)))
    T[a[:n]], T[b[:n]] = T[b[:n]].copy(), T[a[:n]].copy()
    top = np.argsort(-(T @ query), kind="stable")[:k]
    return float((who[top] == other).mean())
