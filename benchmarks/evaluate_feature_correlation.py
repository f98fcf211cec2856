"""What makes a class hard for pocket, by WordNet: `python -m benchmarks.evaluate_feature_correlation`."""

from __future__ import annotations

import hashlib
import time

import pyarrow.parquet as pq

from benchmarks.common import digest, record, shared_data
from binderclip import Encoder
from binderclip.data.embeddings import Embeddings
from binderclip.evaluate.data import Dataset, Item, Sets
from binderclip.evaluate.probes.feature_correlation import FeatureCorrelation
from binderclip.evaluate.vectors import Vectors


def photos() -> Dataset:
    """All photos, at most one a class; names that two classes share are left out."""
    rows = pq.read_table(shared_data() / "imagenet1k_photos.parquet").to_pylist()
    names = [row["name"].split(",")[0].strip() for row in rows]
    kept = [(row, name) for row, name in zip(rows, names, strict=True) if names.count(name) == 1]
    items = tuple(
        Item(row["id"], row["image"]["bytes"] if isinstance(row["image"], dict) else row["image"], (k,))
        for k, (row, _) in enumerate(kept)
    )
    return Dataset("imagenet1k_photos", items, tuple(name for _, name in kept))


def main() -> None:
    """Measure and record."""
    data, encoder = photos(), Encoder("pocket", threads=1)
    X = Vectors(encoder).images(data.items)
    vectors = Vectors(encoder, images=Embeddings.from_arrays(data.ids, X, fingerprint=encoder.fingerprint))
    figures = {}
    held = data.select([int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % 5 == 0 for key in data.ids])
    for name, value, part in (
        ("correct", "correct", data),
        ("difference", "difference", data),
        ("correct_test_rows", "correct", held),
        ("difference_test_rows", "difference", held),
    ):
        began = time.perf_counter()
        report = FeatureCorrelation(
            features=("length", "hypernyms", "senses", "frequency", "depth"),
            value=value,
            min_count=20,
            wordnet=str(shared_data() / "wordnet.parquet"),
            frequencies="wordnet",
            log=True,
        ).run(vectors, Sets(part))
        seconds = round(time.perf_counter() - began, 1)
        rows = [row for row in report.rows if row["kind"] != "rare"]
        shown = [r for r in rows if r["kind"] == "numeric"] + sorted(rows, key=lambda r: r["p"])[:15]
        figures[name] = {
            "items": len(part),
            "seconds": seconds,
            "mean": round(report["value"], 4),
            **{key: int(report[key]) for key in ("features", "tested", "discoveries", "fdr_discoveries", "imputed")},
            "table": [
                {key: round(v, 5) if isinstance(v, float) else v for key, v in row.items() if key != "with"}
                for row in shown
            ],
        }
    record(
        "evaluate_feature_correlation",
        {"classes": len(data), **figures},
        wanted="zero-shot accuracy by class against word frequency, senses and depth in under 60 s; the correlation with "
        "the number of senses is expected to be negative",
        data=digest(shared_data() / "imagenet1k_photos.parquet", shared_data() / "wordnet.parquet"),
        notes="pocket, nine templates, one photo a class; test rows: by the hash of their ids, all classes as candidates; "
        "features that vary in 20 classes; log(1 + count) in WordNet's "
        "glosses, of a phrase its rarest word's; seconds on cached pictures, texts and WordNet included, 1 thread",
        methods=("feature_correlation",),
    )


if __name__ == "__main__":
    main()
