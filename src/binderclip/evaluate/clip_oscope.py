"""CLIP-oscope: which of several objects dominates an embedding (Abbasi et al. 2025, arXiv 2502.19842).

Text towers over-represent the object that is named first, image towers the largest one. Four probes (retrieval and
classification, of texts and of pictures), a matching test where both meet, and the mention order of captions, from which
it may come. Run it before trusting a search for several things.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from binderclip.cards import Card
from binderclip.data.media import open_image
from binderclip.data.pairs import Pair
from binderclip.errors import InputError
from binderclip.evaluate.base import Metric, Report, mean_of, plain, share
from binderclip.evaluate.composed import ComposedScenes, balanced, compose_scenes, shape_sprites
from binderclip.evaluate.metrics.ranking import average_ranks
from binderclip.evaluate.models import Model, square_vectors, vectors_of
from binderclip.evaluate.multi_object import Retrieved, linear_heads, orders_of, retrieve
from binderclip.evaluate.object_matching import matching, mention_order
from binderclip.evaluate.vectors import Vectors

__all__ = ["TESTS", "MultiObjectProbe", "compose_scenes", "first_bias", "shape_sprites"]

CARD = Card(
    slug="clip_oscope",
    name="CLIP-oscope",
    title="CLIP Under the Microscope: A Fine-Grained Analysis of Multi-Object Representation",
    arxiv="2502.19842",
    year=2025,
    room="evaluate",
    provides="MultiObjectProbe",
    kind="Probe",
    files=("evaluate/composed.py", "evaluate/multi_object.py", "evaluate/object_matching.py"),
    must_show={
        "bag oracle: the position histogram is flat with random orders (1/k +- 3 standard errors)": (
            "tests/evaluate/test_clip_oscope.py::test_a_bag_has_no_first_name"
        ),
        "reversing every sentence reverses the histogram exactly": (
            "tests/evaluate/test_clip_oscope.py::test_reversed_sentences_reverse_a_bags_histogram"
        ),
        "planted weights (0.5, 0.3, 0.2): position 1 at > 0.9, and after reversing too": (
            "tests/evaluate/test_clip_oscope.py::test_a_planted_bias_stays_with_the_position"
        ),
        "image side: the enlarged slot's share rises with scale 1, 1.5, 2, 3 (Spearman > 0.9), chance +- 5 points at 1": (
            "bench:evaluate_clip_oscope"
        ),
        "scenario 1 less scenario 2 of matching, with its interval": "bench:evaluate_clip_oscope",
        "matching by bags: both 1.0 without noise; with it scenario 1 > 0.98 and over scenario 2 by > 0.03": (
            "tests/evaluate/test_clip_oscope.py::test_matching_by_bags"
        ),
        "chunked top-k equals a naive loop on 200 sentences": (
            "tests/evaluate/test_clip_oscope.py::test_lists_against_a_loop"
        ),
    },
)

Floats = NDArray[Any]
Ints = NDArray[np.int64]
#: The tests by their names in the paper, and where captions come from.
TESTS = ("tor", "toc", "ior", "ioc", "itm", "origin")


@dataclass(frozen=True)
class MultiObjectProbe:
    """First or largest: what an embedding of several objects keeps.

    ``tor``: a sentence "A and B and C" against single names; ``toc``: linear heads that name the object at each position
    of "a A and a B and ..."; ``ior`` and ``ioc``: the same of pictures, by slot; ``itm``: captions with the big object
    first (scenario 1) or last (2) against captions with an absent one; ``origin``: what captions name first.

    Args:
        tests: which of `TESTS`.
        objects: k of the sentences of ``tor``.
        named: objects of the sentences of ``toc``.
        separators: between names.
        orders: of names in ``tor``: "random", "all", or "vocabulary", which confounds word and position.
        sentences: of ``tor``, at most so many combinations.
        turns: rows of ``toc`` for each name.
        absent: objects tried for each picture of ``itm``; None for all.
        symmetric: see `binderclip.evaluate.object_matching.matching`.
        prefix: before every sentence of ``tor`` and ``itm`` (a long prompt); single names stay bare.
        seed: of everything.
    """

    tests: tuple[str, ...] = TESTS
    objects: int = 3
    named: int = 4
    separators: str = " and "
    orders: str = "random"
    sentences: int = 2000
    turns: int = 60
    absent: int | None = 10
    symmetric: bool = False
    prefix: str = ""
    seed: int = 0

    def run(
        self,
        clip: Model,
        scenes: ComposedScenes | None = None,
        *,
        names: Sequence[str] = (),
        captions: Iterable[Pair] | None = None,
        data: str = "",
    ) -> Report:
        """Measure; tests whose data are not given are left out.

        Args:
            clip: a model.
            scenes: for tests of pictures; their names are the vocabulary.
            names: a vocabulary for tests of texts alone.
            captions: rows with boxes and names for ``origin``.
            data: name for the report.

        Raises:
            InputError: an unknown test, nothing that can be measured, or too few names.
        """
        unknown = [name for name in self.tests if name not in TESTS]
        if unknown:
            raise InputError(f"no test is called {unknown[0]!r}: use some of {', '.join(TESTS)}")
        vectors, vocabulary = vectors_of(clip), list(scenes.names if scenes is not None else names)
        numbers: list[Metric] = []
        charts: list[dict[str, Any]] = []
        rows: list[dict[str, Any]] = []
        if vocabulary and len(vocabulary) <= max(self.objects, self.named):
            raise InputError(f"{len(vocabulary)} names are too few: give more than {max(self.objects, self.named)}")
        if vocabulary and "tor" in self.tests:
            numbers += self._tor(vectors, vocabulary, charts)
        if vocabulary and "toc" in self.tests:
            numbers += self._toc(vectors, vocabulary)
        if scenes is not None and {"ior", "ioc", "itm"} & set(self.tests):
            numbers += self._images(vectors, scenes, charts, rows)
        if captions is not None and "origin" in self.tests:
            numbers += _origin(captions)
        if not numbers:
            raise InputError("nothing to measure: give scenes, names or captions that the tests need")
        name = data or (scenes.name if scenes is not None else "names")
        return Report("clip_oscope", vectors.name, name, tuple(numbers), tuple(rows), tuple(charts))

    def sentence(self, names: Sequence[str]) -> str:
        """Names with the separator between them, without articles."""
        return self.prefix + self.separators.join(names)

    def _tor(self, vectors: Vectors, names: Sequence[str], charts: list[dict[str, Any]]) -> list[Metric]:
        members = orders_of(len(names), self.objects, orders=self.orders, most=self.sentences, seed=self.seed)
        X = vectors.texts([self.sentence([names[i] for i in row]) for row in members])
        return _retrieval("tor", "position", retrieve(X, vectors.texts(names), members), charts)

    def _toc(self, vectors: Vectors, names: Sequence[str]) -> list[Metric]:
        members = balanced(len(names), self.named, self.turns * len(names), self.seed)
        said = [" and ".join(f"{_article(names[i])} {names[i]}" for i in row) for row in members]
        right = linear_heads(vectors.texts(said), members, len(names), seed=self.seed)
        return [share(f"toc_position_{j + 1}", right[:, j]) for j in range(self.named)]

    def _images(
        self, vectors: Vectors, scenes: ComposedScenes, charts: list[dict[str, Any]], rows: list[dict[str, Any]]
    ) -> list[Metric]:
        X, big = _pictures(vectors, scenes)
        members, numbers = scenes.members, list[Metric]()
        if "ior" in self.tests:
            found = retrieve(X, square_vectors(vectors, scenes.bank()), members)
            numbers += _retrieval("ior", "slot", found, charts)
            numbers += [share("ior_big", found.best == big), plain("ior_chance", 1 / scenes.slots, len(X), "", "share")]
            rows += [
                {"id": f"composed/{scenes.seed}/{n}", "big": int(b), "most_similar": int(j), "exact": bool(e)}
                for n, (b, j, e) in enumerate(zip(big, found.best, found.exact, strict=True))
            ]
        if "ioc" in self.tests:
            right = linear_heads(X, members, len(scenes.names), split=(0.8, 0.0), epochs=25, batch=8, seed=self.seed)
            for j in range(scenes.slots):
                marked = "_big" if scenes.big_slot == j and scenes.big_scale > 1 else ""
                numbers.append(share(f"ioc_slot_{j + 1}{marked}", right[:, j]))
        if "itm" in self.tests:
            numbers += self._itm(vectors, scenes, X, big)
        return numbers

    def _itm(self, vectors: Vectors, scenes: ComposedScenes, X: Floats, big: Ints) -> list[Metric]:
        orders = [[scenes.names[i] for i in row] for row in scenes.members]
        options: dict[str, Any] = {"separator": self.separators, "absent": self.absent, "seed": self.seed}

        def texts(said: Sequence[str]) -> Floats:
            return vectors.texts([self.prefix + text for text in said])

        first, last = matching(X, orders, big.tolist(), scenes.names, texts, symmetric=self.symmetric, **options)
        return [
            mean_of("itm_big_first", first, unit="share"),
            mean_of("itm_big_last", last, unit="share"),
            mean_of("itm_difference", first - last, "", "share"),
        ]


def first_bias(models: Mapping[int, Model], names: Sequence[str], **options: Any) -> dict[str, Any]:
    """A chart: how often the first name of a sentence is the most similar one, by training step.

    Args:
        models: step -> the checkpoint of that step.
        names: vocabulary.
        options: of `MultiObjectProbe`.
    """
    probe = MultiObjectProbe(tests=("tor",), **options)
    points = [[step, probe.run(clip, names=names)["tor_position_1"]] for step, clip in sorted(models.items())]
    line = {"first position": points, "chance": [[step, 1 / probe.objects] for step, _ in points]}
    return {
        "kind": "lines",
        "title": "The first name during training",
        "x": "steps",
        "y": "share most similar",
        "series": line,
    }


def _retrieval(name: str, what: str, found: Retrieved, charts: list[dict[str, Any]]) -> list[Metric]:
    """The numbers of (a) to (d): `found.best` is among the row's own, `found.first` among the whole bank."""
    numbers = [share(f"{name}_exact", found.exact)]
    numbers += [share(f"{name}_{what}_{j + 1}", found.first == j, "") for j in range(found.k)]
    if found.exact.any():
        numbers += [share(f"{name}_exact_{what}_{j + 1}", found.first[found.exact] == j, "") for j in range(found.k)]
    numbers.append(share(f"{name}_foreign", found.first < 0, "lower"))
    numbers += [share(f"{name}_own_{what}_{j + 1}", found.best == j, "") for j in range(found.k)]
    numbers += [
        mean_of(f"{name}_precision", found.precision, unit="share"),
        mean_of(f"{name}_map", found.average_precision),
        mean_of(f"{name}_ndcg", found.ndcg),
    ]
    points = [[j + 1, float(v)] for j, v in enumerate(found.shares(found.first))]
    charts.append(
        {
            "kind": "lines",
            "title": f"Most similar by {what}",
            "x": what,
            "y": "share",
            "series": {"most similar": points, "chance": [[j + 1, 1 / found.k] for j in range(found.k)]},
        }
    )
    return numbers


def _pictures(vectors: Vectors, scenes: ComposedScenes, batch: int = 64) -> tuple[Floats, Ints]:
    """Unit rows ``[N, D]`` and the enlarged slot of each ``[N]``; pictures are drawn a batch at a time."""
    parts, big = list[Floats](), list[int]()
    for start in range(0, scenes.rows, batch):
        pictures = list[Image.Image]()
        for number in range(start, min(start + batch, scenes.rows)):
            pair = scenes.row(number)
            pictures.append(open_image(pair.image).image)  # type: ignore[arg-type]
            big.append(int(pair.metadata["big"]))
        parts.append(square_vectors(vectors, pictures))
    return np.concatenate(parts), np.array(big, np.int64)


def _origin(pairs: Iterable[Pair]) -> list[Metric]:
    found = mention_order(pairs)
    n = len(found.first_largest)
    numbers = [
        share("origin_first_is_largest", found.first_largest, ""),
        plain("origin_chance", float(found.chance.mean()), n, "", "share"),
    ]
    place, area = found.areas.T
    numbers += [
        mean_of(f"origin_area_position_{j + 1}", area[place == j], "", "share") for j in range(int(place.max()) + 1)
    ]
    x, y = average_ranks(place), average_ranks(area)
    spread = float(x.std() * y.std())
    value = float(((x - x.mean()) * (y - y.mean())).mean()) / spread if spread > 0 else float("nan")
    return [*numbers, plain("origin_rank_correlation", value, len(area))]


def _article(name: str) -> str:
    return "an" if name[:1].lower() in "aeiou" else "a"
