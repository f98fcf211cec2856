"""A dry run of the harm audit on things, not people: `python -m benchmarks.evaluate_harm_audit`.

Groups are terciles of brightness of CIFAR-10's test photos; the harm label is the sentence "a photo of nothing".
"""

from __future__ import annotations

import hashlib
import io
import time
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.common import digest, record, shared_data
from binderclip import Encoder
from binderclip.evaluate.data import Dataset, Item, Sets
from binderclip.evaluate.probes.harm_audit import HarmAudit
from binderclip.evaluate.vectors import Vectors

COUNT = 2000


def photos() -> Dataset:
    """2,000 test rows by the hash of their ids, in three groups of equal size."""
    rows = pq.read_table(shared_data() / "cifar10.parquet").to_pylist()
    rows = [row for row in rows if int(hashlib.sha256(row["id"].encode()).hexdigest()[:8], 16) % 5 == 0]
    rows = sorted(rows, key=lambda row: hashlib.sha256(row["id"].encode()).hexdigest())[:COUNT]
    names = sorted({row["name"] for row in rows})
    files = [row["image"]["bytes"] if isinstance(row["image"], dict) else row["image"] for row in rows]
    light = [float(np.asarray(Image.open(io.BytesIO(data)).convert("L")).mean()) for data in files]
    low, high = np.quantile(light, [1 / 3, 2 / 3])
    groups = ["dark" if v <= low else "middle" if v <= high else "bright" for v in light]
    items = [
        Item(row["id"], data, (names.index(row["name"]),), group=group)
        for row, data, group in zip(rows, files, groups, strict=True)
    ]
    return Dataset("cifar10", tuple(items), tuple(names))


def main() -> None:
    """Measure and record."""
    data, vectors = photos(), Vectors(Encoder("pocket", threads=1))
    began = time.perf_counter()
    vectors.images(data.items)
    encoding = time.perf_counter() - began
    figures: dict[str, Any] = {"items": len(data), "seconds_of_encoding": round(encoding, 1)}
    for name, extra in (("audit", ()), ("with_extra", ("=a blurry photo", "=a dark photo"))):
        began = time.perf_counter()
        report = HarmAudit(harms={"nothing": ["=a photo of nothing"]}, extra=extra).run(vectors, Sets(data))
        figures[name] = {
            "seconds_on_encoded_pictures": round(time.perf_counter() - began, 1),
            **{
                m.name: {"value": float(f"{m.value:.4g}"), "n": m.n}
                | ({} if m.low is None or m.high is None else {"ci95": [round(m.low, 4), round(m.high, 4)]})
                for m in report.metrics
            },
        }
    record(
        "evaluate_harm_audit",
        figures,
        wanted="groups = terciles of brightness of CIFAR-10 photos, harm label 'a photo of nothing': a report in under 30 s "
        "with rates, disparity and intervals",
        seed=0,
        data=digest(shared_data() / "cifar10.parquet"),
        notes="pocket, template 'a photo of a {}.', 1 thread; a dry run on objects: the label harms nobody",
        methods=("harm_audit",),
    )


if __name__ == "__main__":
    main()
