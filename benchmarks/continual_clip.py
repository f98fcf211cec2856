"""Continual-CLIP on CIFAR-100's test rows, from cached vectors of `pocket`. `python -m benchmarks.continual_clip`."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.adapt_gda import Cache
from benchmarks.common import digest, record, shared_data
from binderclip.continual.continual_clip import TEMPLATES, zero_shot_stream
from binderclip.continual.streams import class_groups, class_order
from binderclip.data.embeddings import Embeddings
from binderclip.data.templates import class_vectors
from binderclip.evaluate.data import Dataset, Item, Sets
from binderclip.evaluate.probes import load
from binderclip.evaluate.vectors import Vectors


def main() -> None:
    """Measure and record."""
    cache = Cache("pocket")
    keys = cache.test
    X = np.stack([cache.single[key] for key in keys])
    names = [cache.classes[cache.label[key]] for key in keys]
    plain = [name.replace("_", " ") for name in cache.classes]
    figures: dict[str, Any] = {"rows": len(keys), "classes": len(plain)}
    order = class_order(cache.classes)
    at = {name: k for k, name in enumerate(order)}
    y = np.array([at[name] for name in names])
    for title, template in TEMPLATES.items():
        W = class_vectors(cache.encoder, [name.replace("_", " ") for name in order], template)
        row = {}
        for increment in (10, 5, 2):
            _, A = zero_shot_stream(X, y, W, [len(g) for g in class_groups(order, increment)])
            row[f"{increment}-{increment}"] = {"average": round(float(A.mean()), 3), "last": round(float(A[-1]), 3)}
        figures[title] = row
    items = tuple(Item(key, None, labels=(cache.label[key],)) for key in keys)
    data = Dataset("cifar100", items, tuple(plain), named=True)
    given = Embeddings.from_arrays(tuple(keys), X, fingerprint=cache.encoder.fingerprint)
    probe = load("zero-shot", templates=TEMPLATES["good photo"])
    report = probe.run(Vectors(cache.encoder, images=given), Sets(data))
    figures["zero-shot of the evaluate room, good photo"] = round(100 * report["acc1"], 3)
    record(
        "continual_clip",
        figures,
        wanted="Avg(2-2) >= Avg(5-5) >= Avg(10-10) within 0.3; last equals the evaluate room's zero-shot accuracy",
        seed=0,
        data=digest(shared_data() / "cifar100.parquet"),
        notes="pocket; CIFAR-100's test rows by the hash of their ids, one encoding; order of classes drawn with seed 0; "
        "average and last in percent. pocket was trained on CIFAR-100's training rows.",
        methods=("continual_clip",),
    )


if __name__ == "__main__":
    main()
