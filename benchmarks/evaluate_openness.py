"""Openness of pocket on CIFAR-100's 20 superclasses, and the nouns that hurt most: `python -m benchmarks.evaluate_openness`.

Nouns are WordNet's that occur at least three times in Flickr8k's captions, classes and their synonyms left out.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.common import digest, record, shared_data
from binderclip import Encoder
from binderclip.data.embeddings import Embeddings
from binderclip.data.wordnet import WordNet
from binderclip.evaluate.data import Dataset, Item, Sets
from binderclip.evaluate.probes.openness import Openness
from binderclip.evaluate.vectors import Vectors

SUPERCLASSES = {
    "aquatic mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food containers": "bottle bowl can cup plate",
    "fruit and vegetables": "apple mushroom orange pear sweet_pepper",
    "household electrical devices": "clock keyboard lamp telephone television",
    "household furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large carnivores": "bear leopard lion tiger wolf",
    "large man-made outdoor things": "bridge castle house road skyscraper",
    "large natural outdoor scenes": "cloud forest mountain plain sea",
    "large omnivores and herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium mammals": "fox porcupine possum raccoon skunk",
    "non-insect invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles 1": "bicycle bus motorcycle pickup_truck train",
    "vehicles 2": "lawn_mower rocket streetcar tank tractor",
}


def photos(names: list[str]) -> Dataset:
    """Test rows: by the hash of the id."""
    import hashlib

    rows = pq.read_table(shared_data() / "cifar100.parquet").to_pylist()
    items = []
    for row in rows:
        if int(hashlib.sha256(row["id"].encode()).hexdigest()[:8], 16) % 5 == 0:
            image = row["image"]["bytes"] if isinstance(row["image"], dict) else row["image"]
            items.append(Item(row["id"], image, (names.index(row["name"].replace(" ", "_")),)))
    return Dataset("cifar100", tuple(items), tuple(name.replace("_", " ") for name in names))


def nouns(classes: list[str]) -> list[str]:
    """Frequent nouns that name none of the classes."""
    wordnet = WordNet(shared_data() / "wordnet.parquet")
    captions = pq.read_table(shared_data() / "flickr8k_captions.parquet", columns=["captions"])["captions"].to_pylist()
    counts = Counter(word for row in captions for text in row for word in re.findall(r"[a-z]{3,}", text.lower()))
    known = {word for name in classes for part in (name, *name.split("_")) for word in (part, f"{part}s", f"{part}es")}
    known |= {w.lower() for name in classes for w in wordnet.synonyms(name.replace("_", " "), "n")}
    return sorted(w for w, n in counts.items() if n >= 3 and w not in known and wordnet.synsets(w, "n"))


def main() -> None:
    """Measure and record."""
    names = sorted(name for members in SUPERCLASSES.values() for name in members.split())
    groups = {group: members.split() for group, members in SUPERCLASSES.items()}
    assert len(names) == 100
    data, encoder = photos(names), Encoder("pocket", threads=1)
    X = Vectors(encoder).images(data.items)
    words = nouns(names)
    vectors = Vectors(encoder, images=Embeddings.from_arrays(data.ids, X, fingerprint=encoder.fingerprint))
    began = time.perf_counter()
    plain = Openness(groups=groups, templates="photo").run(vectors, Sets(data))
    seconds = time.perf_counter() - began
    ensemble = Openness(groups=groups, templates="photos").run(vectors, Sets(data))
    worst = Openness(groups=groups, templates="photo", trials=1, nouns=tuple(words)).run(vectors, Sets(data))

    def shown(report: Any, prefix: str = "") -> dict[str, Any]:
        return {
            m.name: {"value": round(m.value, 4), "n": m.n}
            | ({} if m.low is None or m.high is None else {"ci95": [round(m.low, 4), round(m.high, 4)]})
            for m in report.metrics
            if m.name.startswith(prefix)
        }

    curves = {name: [round(float(v), 4) for _, v in line] for name, line in plain.charts[0]["series"].items()}
    record(
        "evaluate_openness",
        {
            "items": len(data),
            "seconds": round(seconds, 1),
            "single_template": shown(plain),
            "nine_templates": shown(ensemble),
            "curves": curves,
            "nouns": len(words),
            "adversarial": shown(worst, "adversarial"),
            "worst": [note for note in worst.notes if note.startswith("worst")],
        },
        wanted="CIFAR-100, 20 superclasses, pocket, cached vectors: Acc-C - Acc-S over 15 points in under 60 s; one noun "
        "outside the classes lowers accuracy by more than 0.5 points alone; uniformity of the 100 texts reported",
        seed=42,
        data=digest(*(shared_data() / f for f in ("cifar100.parquet", "wordnet.parquet", "flickr8k_captions.parquet"))),
        notes="test rows by the hash of their ids; seconds are of the probe on cached pictures, texts included, 1 thread",
        methods=("openness",),
    )


if __name__ == "__main__":
    np.seterr(invalid="raise")
    main()
