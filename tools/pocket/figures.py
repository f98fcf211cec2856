"""The figures a joint space is judged by, of image embeddings and a text encoder; nothing here knows the model.

``split`` chooses the rows: a function of the row id. Every query set is fixed by the tables and by digests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pocket import names
from pocket.inputs import Paths, hash_order

Encode = Callable[[Sequence[str]], np.ndarray]
Split = Callable[[str], bool]
PROMPTS = ("a photo of a {}", "{}", "a picture of a {}", "a close-up of a {}")


@dataclass
class Space:
    """Embeddings by table with their row ids, and the text encoder beside them."""

    paths: Paths
    images: dict[str, tuple[np.ndarray, np.ndarray]]
    encode: Encode

    def rows(self, table: str, split: Split, columns: list[str]) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Embeddings ``[N, D]`` and table rows of one split, in the table's order."""
        ids, vectors = self.images[table]
        place = {i: n for n, i in enumerate(ids)}
        rows = [r for r in self.paths.table(table, ["id", *columns]) if r["id"] in place and split(r["id"])]
        return vectors[[place[r["id"]] for r in rows]], rows

    def prompts(self, words: Sequence[str]) -> np.ndarray:
        """Unit class vectors ``[K, D]``: the mean over the prompts."""
        flat = self.encode([p.format(w) for w in words for p in PROMPTS])
        means = flat.reshape(len(words), len(PROMPTS), -1).mean(1)
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    @cached_property
    def thousand(self) -> np.ndarray:
        """Class vectors of ImageNet's 1,000 names."""
        return self.prompts([c.name for c in names.imagenet(self.paths)])


def accuracy(vectors: np.ndarray, truth: Sequence[int], classes: np.ndarray) -> float:
    """Share of rows whose nearest class vector is their own."""
    return float(((vectors @ classes.T).argmax(1) == np.asarray(truth)).mean())


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive outranks a negative (ties count half)."""
    order = scores.argsort(kind="stable")
    ranks = np.empty(len(scores))
    ranks[order] = np.arange(1, len(scores) + 1)
    p, n = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - p * (p + 1) / 2) / (p * n))


def cifar10(space: Space, split: Split) -> float:
    """10-way accuracy."""
    vectors, rows = space.rows("cifar10", split, ["name"])
    return accuracy(vectors, [names.CIFAR10.index(r["name"]) for r in rows], space.prompts(names.CIFAR10))


def cifar100(space: Space, split: Split, only: Sequence[str] | None = None) -> float:
    """100-way accuracy, or among the names in ``only``."""
    words = list(only) if only else names.cifar100_names(space.paths)[0]
    vectors, rows = space.rows("cifar100", split, ["name"])
    said = [r["name"].replace("_", " ") for r in rows]
    inside = [i for i, name in enumerate(said) if name in words]
    return accuracy(vectors[inside], [words.index(said[i]) for i in inside], space.prompts(words))


def tiny(space: Space, split: Split) -> float:
    """200-way accuracy; a class is called by the first of its names."""
    vectors, rows = space.rows("tiny_imagenet", split, ["name"])
    words = sorted({r["name"] for r in rows})
    return accuracy(vectors, [words.index(r["name"]) for r in rows], space.prompts([w.split(",")[0] for w in words]))


def photos(space: Space, split: Split) -> float:
    """1,000-way accuracy on the ImageNet photos."""
    order = {c.wnid: i for i, c in enumerate(names.imagenet(space.paths))}
    vectors, rows = space.rows("imagenet1k_photos", split, ["wnid"])
    return accuracy(vectors, [order[r["wnid"]] for r in rows], space.thousand)


def stamps(space: Space, split: Split, k: int = 5, form: str = "{}") -> float:
    """Text to image recall@k; pictures with one caption count as one another's.

    ``form`` rewords the query: ``{}`` is the caption, lower-case and without its full stop where the form says more.
    """
    vectors, rows = space.rows("stamps", split, ["caption"])
    captions = np.array([r["caption"] for r in rows])
    said = list(captions) if form == "{}" else [form.format(c.rstrip(".").lower()) for c in captions]
    best = (space.encode(said) @ vectors.T).argsort(1)[:, ::-1][:, :k]
    return float(np.mean([caption in captions[top] for caption, top in zip(captions, best, strict=True)]))


def parents(space: Space, split: Split, count: int = 100, least: int = 2) -> tuple[float, int]:
    """Mean AUROC of WordNet parent names over the photos below them, and how many names qualified.

    Names by digest among those with ``least`` or more photos of the split below them and at most half of it.
    """
    vectors, rows = space.rows("imagenet1k_photos", split, ["wnid"])
    wordnet = space.paths.wordnet
    below: dict[str, np.ndarray] = {}
    for i, row in enumerate(rows):
        for parent in names.ancestors(wordnet, row["wnid"]):
            below.setdefault(parent, np.zeros(len(rows), bool))[i] = True
    named = {wordnet[p]["lemmas"][0]: hit for p, hit in below.items() if least <= hit.sum() <= len(rows) / 2}
    chosen = hash_order(list(named))[:count]
    queries = space.encode([f"a photo of a {name}" for name in chosen])
    return float(np.mean([auroc(vectors @ q, named[n]) for q, n in zip(queries, chosen, strict=True)])), len(chosen)


def table(space: Space, split: Split, unseen: Sequence[str] | None = None) -> dict[str, float]:
    """All of the above."""
    mean, _ = parents(space, split)
    out = {
        "cifar100": cifar100(space, split),
        "cifar100_unseen20": cifar100(space, split, unseen or names.cifar100_names(space.paths)[1]),
        "tiny_imagenet": tiny(space, split),
        "imagenet_photos_1000": photos(space, split),
        "stamps_recall5": stamps(space, split),
        "parents_auroc": mean,
    }
    if "cifar10" in space.images and len(space.rows("cifar10", split, [])[1]):
        out["cifar10"] = cifar10(space, split)
    return out
