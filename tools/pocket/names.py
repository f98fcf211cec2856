"""The names of things: ImageNet's classes in WordNet, their synonyms, ancestors and glosses."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import Any

from pocket.inputs import Paths, hash_order, is_test

TEMPLATES = (
    "{}",
    "a photo of a {}",
    "a picture of a {}",
    "a {}",
    "a small photo of a {}",
    "a close-up of a {}",
    "a blurry photo of the {}",
    "there is a {} in the image",
)

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Their synsets, for the second fit that never saw any of them.
CIFAR10_SYNSETS = (
    "n02691156", "n02958343", "n01503061", "n02121620", "n02430045", "n02084071", "n01639765", "n02374451",
    "n04194289", "n04490091",
)  # fmt: skip


@dataclass(frozen=True)
class Concept:
    """One ImageNet class.

    Attributes:
        wnid: WordNet 3.0 id.
        name: as open_clip's curated list spells it.
        synonyms: the synset's lemmas.
        gloss: its definition, without examples.
        parents: first lemma of each ancestor, nearest first.
    """

    wnid: str
    name: str
    synonyms: tuple[str, ...]
    gloss: str
    parents: tuple[str, ...]


def definition(gloss: str) -> str:
    """A gloss without quoted examples."""
    return gloss.split('; "')[0].split(';"')[0].strip()


def ancestors(wordnet: dict[str, dict[str, Any]], wnid: str) -> list[str]:
    """Ids of all ancestors, nearest first, each once."""
    out: list[str] = []
    level = [wnid]
    while level:
        above = [h for w in level if w in wordnet for h in wordnet[w]["hypernyms"]]
        level = [h for h in dict.fromkeys(above) if h not in out]
        out += level
    return out


def imagenet(paths: Paths) -> list[Concept]:
    """The 1,000 classes in the order of the head's outputs.

    The order of synset ids comes from timm's list, the curated spelling from open_clip's list, the rest from WordNet.
    """
    synsets = (paths.unpacked("timm") / "timm/data/_info/imagenet_synsets.txt").read_text().split()
    source = (paths.unpacked("open_clip_torch") / "open_clip/zero_shot_metadata.py").read_text()
    tree = ast.parse(source)
    (names,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "IMAGENET_CLASSNAMES"
    ]
    wordnet = paths.wordnet
    out = []
    for wnid, name in zip(synsets, names, strict=True):
        row = wordnet[wnid]
        parents = tuple(wordnet[a]["lemmas"][0] for a in ancestors(wordnet, wnid))
        out.append(Concept(wnid, name, tuple(row["lemmas"]), definition(row["gloss"]), parents))
    return out


def cifar100_names(paths: Paths) -> tuple[list[str], list[str]]:
    """All names, and the 20 that no training sees (smallest digests), with spaces for underscores."""
    stored = sorted({row["name"] for row in paths.table("cifar100", ["name"])})
    unseen = hash_order(stored)[:20]
    return [n.replace("_", " ") for n in stored], [n.replace("_", " ") for n in unseen]


def parent_queries(paths: Paths, count: int = 100) -> list[tuple[str, set[str]]]:
    """WordNet parent names by digest, each with the ids of the classes below it.

    A parent qualifies with 5 to 300 of the 645 photographed classes below it; its name is its first lemma.
    """
    wordnet = paths.wordnet
    below: dict[str, set[str]] = {}
    for wnid in {row["wnid"] for row in paths.table("imagenet1k_photos", ["wnid"])}:
        for parent in ancestors(wordnet, wnid):
            below.setdefault(parent, set()).add(wnid)
    named = {wordnet[p]["lemmas"][0]: kids for p, kids in below.items() if 5 <= len(kids) <= 300}
    return [(name, named[name]) for name in hash_order(list(named))[:count]]


def hyponyms_of_cifar10(paths: Paths) -> set[str]:
    """Ids at or below the ten names' synsets."""
    wordnet, roots = paths.wordnet, set(CIFAR10_SYNSETS)
    return {w for w in wordnet if w in roots or (w[0] == "n" and roots & set(ancestors(wordnet, w)))}


def mentions_cifar10(text: str) -> bool:
    """Whether a caption says one of the ten names or a common synonym."""
    words = set(re.findall(r"[a-z]+", text.lower()))
    more = {"plane", "aeroplane", "jet", "car", "kitten", "puppy", "pony", "lorry", "boat", "toad", "stag", "reindeer"}
    return bool(words & ({*CIFAR10} | more | {w + "s" for w in (*CIFAR10, *more)}))


def stamps_captions(paths: Paths) -> list[dict[str, Any]]:
    """Stamps rows: id, category, caption, whether a test row."""
    rows = paths.table("stamps", ["id", "category", "caption"])
    return [row | {"test": is_test(row["id"])} for row in rows]
