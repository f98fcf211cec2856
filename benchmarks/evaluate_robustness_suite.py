"""The robustness suite on small data: `python -m benchmarks.evaluate_robustness_suite`.

`... sweep` times 2,000 pictures x 6 corruptions x 5; `... mirror MODEL` matches patches of Tiny-ImageNet's test photos.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import binderclip
from benchmarks.common import digest, record, shared_data
from benchmarks.scene_clip import HOW, scene_clip
from binderclip import Encoder
from binderclip.data.embeddings import Embeddings
from binderclip.data.scenes.scene import scene
from binderclip.data.scenes.spec import SceneSpec
from binderclip.evaluate.base import Report
from binderclip.evaluate.data import Dataset, Item, Sets
from binderclip.evaluate.models import vectors_of
from binderclip.evaluate.probes.ood import OOD
from binderclip.evaluate.probes.robustness_suite import RobustnessSuite
from binderclip.evaluate.reading import open_dataset
from binderclip.evaluate.vectors import Vectors

COUNT = 2000


def photos(file: str, count: int) -> Dataset:
    """Test rows in the order of the hash of their ids."""
    rows = pq.read_table(shared_data() / f"{file}.parquet").to_pylist()
    rows = [row for row in rows if int(hashlib.sha256(row["id"].encode()).hexdigest()[:8], 16) % 5 == 0]
    rows = sorted(rows, key=lambda row: hashlib.sha256(row["id"].encode()).hexdigest())[:count]
    names = sorted({row["name"] for row in rows})
    items = []
    for row in rows:
        image = row["image"]["bytes"] if isinstance(row["image"], dict) else row["image"]
        items.append(Item(f"{file}/{row['id']}", image, (names.index(row["name"]),)))
    return Dataset(file, tuple(items), tuple(name.replace("_", " ") for name in names))


def mirrored(count: int = 60) -> Dataset:
    """Test scenes of the small transformer."""
    spec = SceneSpec(size=32, objects=(1, 2), alike=0, textures=("plain",), sizes=("medium", "large"), split="test")
    scenes = [scene(i, spec) for i in range(count)]
    return Dataset("scenes", tuple(Item(one.id, one.image, (i % 2,)) for i, one in enumerate(scenes)), ("one", "two"))


def shown(report: Report, *wanted: str) -> dict[str, Any]:
    """Numbers by name."""
    return {
        m.name: {"value": round(m.value, 4), "n": m.n}
        | ({} if m.low is None or m.high is None else {"ci95": [round(m.low, 4), round(m.high, 4)]})
        for m in report.metrics
        if not wanted or m.name.startswith(wanted)
    }


def small() -> dict[str, Any]:
    """Strangers, halves, correspondence, factors and shape."""
    figures: dict[str, Any] = {}
    encoder = Encoder("pocket", threads=1)
    vectors, test, other = Vectors(encoder), photos("cifar10", COUNT), photos("cifar100", 1000)
    report = OOD(templates="a photo of a {}").run(vectors, Sets(test, outliers=other))
    figures["cifar10_against_cifar100"] = shown(report, "mcm", "msp", "id_acc1")
    half = np.arange(len(test)) % 2 == 0
    halves = Sets(test.select(half), outliers=test.select(~half))
    figures["one_half_against_the_other"] = shown(OOD(templates="a photo of a {}").run(vectors, halves), "mcm_auroc")
    clip = vectors_of(scene_clip())
    figures["correspondence"] = shown(RobustnessSuite(parts=("correspondence",)).run(clip, Sets(mirrored())))
    stamps = open_dataset(str(shared_data() / "stamps.parquet"))
    suite = RobustnessSuite(parts=("factors", "shape", "calibration"), most=300)
    report = suite.run(vectors, Sets(stamps))
    return figures | {"stamps": shown(report), "notes": list(report.notes)}


def sweep() -> dict[str, Any]:
    """The timed run, and the same again by another process's worth of memory."""
    encoder = Encoder("pocket", threads=1)
    test, other = photos("cifar10", COUNT), photos("cifar100", 500)
    fresh = Vectors(encoder)
    items = [*test.items, *other.items]
    table = Embeddings.from_arrays([i.id for i in items], fresh.images(items), fingerprint=encoder.fingerprint)
    with tempfile.TemporaryDirectory() as folder:
        suite = RobustnessSuite(parts=("calibration", "ood", "corrupt2d"), most=COUNT, cache=folder)
        figures: dict[str, Any] = {}
        for run in ("first", "second"):
            wall, cpu = time.perf_counter(), time.process_time()
            report = suite.run(Vectors(encoder, images=table), Sets(test, outliers=other))
            figures[run] = {
                "wall_seconds": round(time.perf_counter() - wall, 1),
                "cpu_seconds": round(time.process_time() - cpu, 1),
            }
    return {"pictures": len(test), "variants": 30, **figures, "numbers": shown(report)}


def mirror(model: str) -> None:
    """Patches of a transformer on photos."""
    clip = binderclip.load(model)
    data = photos("tiny_imagenet", 100)
    report = RobustnessSuite(parts=("correspondence",)).run(vectors_of(clip), Sets(data))
    record(
        "evaluate_robustness_mirror",
        {"parameters": sum(p.numel() for p in clip.towers["image"].parameters()), **shown(report)},
        wanted="mirror recall of patches over 0.5 and 20 points over random tokens",
        seed=0,
        data=digest(shared_data() / "tiny_imagenet.parquet"),
        notes="100 test photos; a small vision transformer, distilled from pocket; middle block, no ratio test",
        methods=("robustness_suite",),
    )


def main() -> None:
    """Measure and record."""
    if sys.argv[1:2] == ["mirror"]:
        mirror(sys.argv[2])
        return
    timed = sys.argv[1:] == ["sweep"]
    files = [shared_data() / f"{name}.parquet" for name in ("cifar10", "cifar100", "stamps")]
    record(
        "evaluate_robustness_sweep" if timed else "evaluate_robustness_suite",
        sweep() if timed else small(),
        wanted="2,000 CIFAR-10 test pictures, 6 corruptions x 5 under 10 minutes on 2 cores with cached embeddings; second "
        "run under 10 s"
        if timed
        else "MCM AUROC of CIFAR-10 against CIFAR-100 over 0.6, of one half against the other 0.5 +- 0.03; mirror recall "
        "of patches over 0.5 and 20 points over random tokens",
        seed=0,
        data=digest(*files[: 2 if timed else 3]),
        notes="pocket, one thread at the lowest priority beside other work; corrupted at 32 pixels, as the pictures come"
        if timed
        else f"pocket, 'a photo of a {{}}'; correspondence: {HOW}, middle block, 60 test scenes, no ratio test",
        methods=("robustness_suite",),
    )


if __name__ == "__main__":
    main()
