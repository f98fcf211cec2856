"""Training pictures with what they are called: which rows a fit may see, the texts of each label, the names above it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pocket import features, names
from pocket.inputs import Paths, hash_order, is_test

Look = Callable[[Sequence[str]], np.ndarray]  # texts to unit vectors
Keep = Callable[[str, dict[str, Any]], bool]  # table and row to whether a fit may see it


@dataclass
class Rows:
    """Training pictures: ``features [N, 1280]``, ``logits [N, 1000]`` (of the plain view), ``label [N]``, group of each."""

    features: Tensor
    logits: Tensor
    label: Tensor
    weight: Tensor


@dataclass
class Labels:
    """What the pictures show: for each label its texts' vectors ``[K, M, D]``; shorter lists repeat."""

    keys: list[str]
    texts: list[list[str]]
    vectors: Tensor = field(default_factory=lambda: torch.empty(0))
    # [K, H]: 1 where a label is below a parent, 0 where not, -1 where nobody knows
    below: Tensor = field(default_factory=lambda: torch.empty(0))

    def seal(self, look: Look, most: int = 10) -> None:
        """Look the vectors up."""
        rows = [[t[i % len(t)] for i in range(most)] for t in self.texts]
        flat = look([text for row in rows for text in row])
        self.vectors = torch.from_numpy(flat).view(len(rows), most, -1)


@dataclass
class Parents:
    """WordNet names above ImageNet's classes: ``member [1000, H]``, and each name's vectors ``[H, M, D]``."""

    member: Tensor
    vectors: Tensor
    ids: list[str]


def parent_names(paths: Paths, look: Look, least: int = 4, most: int = 400) -> Parents:
    """Every ancestor with ``least`` to ``most`` of the 1,000 classes below it."""
    wordnet, concepts = paths.wordnet, names.imagenet(paths)
    above = [set(names.ancestors(wordnet, c.wnid)) for c in concepts]
    counts: dict[str, int] = {}
    for one in above:
        for parent in one:
            counts[parent] = counts.get(parent, 0) + 1
    ids = sorted(p for p, n in counts.items() if least <= n <= most)
    member = torch.tensor([[float(p in one) for p in ids] for one in above])
    forms = ("{}", "a photo of a {}")
    flat = look([f.format(wordnet[p]["lemmas"][0]) for p in ids for f in forms])
    return Parents(member, torch.from_numpy(flat).view(len(ids), len(forms), -1), ids)


def label_texts(paths: Paths) -> dict[str, list[str]]:
    """Texts by synset id of ImageNet's classes."""
    out = {}
    for c in names.imagenet(paths):
        words = list(dict.fromkeys([c.name, *c.synonyms[:3]]))
        out[c.wnid] = [
            c.name, *(f"a photo of a {w}" for w in words), *words[1:], f"{c.name}, a kind of {c.parents[0]}",
            f"a picture of a {c.name}", f"{c.name}, {c.gloss}", f"a photo of a {c.parents[0]}",
        ]  # fmt: skip
    return out


def _label(table: str, row: dict[str, Any], by_wnid: dict[str, list[str]]) -> tuple[str, list[str]]:
    """Key and texts of what a row shows."""
    if table == "stamps":
        caption = row["caption"]
        return "caption " + caption, [caption, caption.rstrip("."), f"a picture of {caption}"]
    if table == "cifar100":
        name = row["name"].replace("_", " ")
        return "name " + name, [t.format(name) for t in names.TEMPLATES]
    return row["wnid"], by_wnid[row["wnid"]]


def gather(paths: Paths, keep: Keep, look: Look, parents: Parents) -> tuple[Rows, Labels]:
    """All training rows that ``keep(table, row)`` lets in, with their labels."""
    by_wnid = label_texts(paths)
    keys: dict[str, int] = {}
    texts: list[list[str]] = []
    parts = []
    for table, views in features.PLAN.items():
        if table == "cifar10":
            continue
        columns = {"stamps": ["id", "caption"], "cifar100": ["id", "name"]}.get(table, ["id", "wnid"])
        labels: dict[str, int] = {}
        for row in paths.table(table, columns):
            if is_test(row["id"]) or not keep(table, row):
                continue
            key, its = _label(table, row, by_wnid)
            if key not in keys:
                keys[key] = len(texts)
                texts.append(its)
            labels[row["id"]] = keys[key]
        parts += _views(paths, table, views, labels)
    found = Labels(list(keys), texts)
    found.seal(look)
    found.below = torch.full((len(keys), len(parents.ids)), -1.0)
    for key, place in keys.items():
        if key in by_wnid:
            above = set(names.ancestors(paths.wordnet, key))
            found.below[place] = torch.tensor([float(p in above) for p in parents.ids])
    return Rows(*(torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True))), found


def _views(paths: Paths, table: str, views: Sequence[int], labels: dict[str, int]) -> list[tuple[np.ndarray, ...]]:
    """Features, logits of the plain view, labels and weights of each view."""
    plain = features.load(paths, table, 0)
    place = {i: n for n, i in enumerate(plain["ids"])}
    out = []
    for view in views:
        got = features.load(paths, table, view) if view else plain
        rows = [n for n, i in enumerate(got["ids"]) if i in labels]
        ids = [got["ids"][n] for n in rows]
        weight = 0.5 if table == "tiny_imagenet" else 1.0
        out.append(
            (
                got["features"][rows],
                plain["logits"][[place[i] for i in ids]],
                np.array([labels[i] for i in ids], dtype=np.int64),
                np.full(len(rows), weight, np.float32),
            )
        )
    return out


def concept_vectors(paths: Paths, look: Look, synonyms: float = 0.5) -> Tensor:
    """``C [1000, D]``: curated name, with WordNet's synonyms mixed in."""
    out = []
    for c in names.imagenet(paths):
        name = look([c.name, f"a photo of a {c.name}"]).mean(0)
        also = look(list(c.synonyms)).mean(0)
        out.append((1 - synonyms) * name + synonyms * also)
    return F.normalize(torch.from_numpy(np.stack(out)), dim=-1)


def keep_final(paths: Paths) -> Keep:
    """Everything but test rows and CIFAR-100's 20 unseen classes."""
    unseen = set(names.cifar100_names(paths)[1])
    return lambda table, row: table != "cifar100" or row["name"].replace("_", " ") not in unseen


def keep_tuning(paths: Paths) -> Keep:
    """For choosing settings: 20 more CIFAR-100 classes and a fifth of the training rows are kept out too."""
    stored = [n.replace(" ", "_") for n in names.cifar100_names(paths)[0]]
    out = {n.replace("_", " ") for n in hash_order(stored)[:40]}
    return lambda table, row: (
        not is_test("tune" + row["id"]) and (table != "cifar100" or row["name"].replace("_", " ") not in out)
    )


def keep_without_cifar10(paths: Paths) -> Keep:
    """As the final fit, without a picture of CIFAR-10's ten names or of what lies below them."""
    base, below = keep_final(paths), names.hyponyms_of_cifar10(paths)

    def keep(table: str, row: dict[str, Any]) -> bool:
        if "wnid" in row and row["wnid"] in below:
            return False
        text = row.get("caption") or row.get("name", "").replace("_", " ")
        return base(table, row) and not names.mentions_cifar10(text)

    return keep


def keep_fold(paths: Paths, fold: int) -> Keep:
    """As the final fit without one half of the ImageNet photos: calibration needs photos that no fit has seen."""
    base = keep_final(paths)
    return lambda table, row: base(table, row) and not (table == "imagenet1k_photos" and in_fold(row["id"]) == fold)


def in_fold(row_id: str) -> int:
    """0 or 1."""
    return hashlib.sha256(f"fold {row_id}".encode()).digest()[0] % 2


def fits(paths: Paths) -> dict[str, Keep]:
    """The model's own MLP, one that never saw CIFAR-10's names (for the report), two for the calibration."""
    return {
        "": keep_final(paths),
        "_fold0": keep_fold(paths, 0),
        "_fold1": keep_fold(paths, 1),
        "_without_cifar10": keep_without_cifar10(paths),
    }
