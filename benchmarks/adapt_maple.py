"""MaPLe beside CoOp and zero-shot, base to new on CIFAR-100. `python -m benchmarks.adapt_maple FOLDER_OF_A_VIT [CLASSES]`.

Classes in the order of their names: the first half is base (16 shots of each), the second new (named only). Test rows are
among those of `benchmarks.adapt_gda`; each seed draws other shots. CoOp takes as many steps as MaPLe, on one cached view of
each shot.
"""

from __future__ import annotations

import hashlib
import io
import sys
import time
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.common import digest, record, shared_data
from binderclip.adapt.coop import CoOp
from binderclip.adapt.maple import MaPLe
from binderclip.adapt.zero_shot import ZeroShot
from binderclip.data.hashing import uniform
from binderclip.engine.torch_encoder import TorchEncoder
from binderclip.hub import load

SEEDS, SHOTS, MOST = (1, 2, 3), 16, 30


class Rows:
    """Pictures of the first classes by name."""

    def __init__(self, count: int) -> None:
        rows = pq.read_table(shared_data() / "cifar100.parquet").to_pylist()
        self.classes = sorted({row["name"] for row in rows})[:count]
        rows = [row for row in rows if row["name"] in self.classes]
        held = [int(hashlib.sha256(row["id"].encode()).hexdigest()[:8], 16) % 5 == 0 for row in rows]
        self.test = self._first([row for row, out in zip(rows, held, strict=True) if out], 0, MOST)
        self.pool = [row for row, out in zip(rows, held, strict=True) if not out]

    def _first(self, rows: list[dict[str, Any]], seed: int, most: int) -> list[dict[str, Any]]:
        drawn = dict(zip([row["id"] for row in rows], uniform(seed, [row["id"] for row in rows]), strict=True))
        ordered = sorted(rows, key=lambda row: drawn[row["id"]])
        return [row for name in self.classes for row in [one for one in ordered if one["name"] == name][:most]]

    def shots(self, seed: int) -> list[dict[str, Any]]:
        return self._first(self.pool, seed, SHOTS)


def opened(rows: list[dict[str, Any]]) -> list[Image.Image]:
    data = [row["image"]["bytes"] if isinstance(row["image"], dict) else row["image"] for row in rows]
    return [Image.open(io.BytesIO(one)).convert("RGB") for one in data]


def trial(clip: Any, rows: Rows, seed: int) -> dict[str, tuple[float, float]]:
    """Accuracies on base and new by method, in percent."""
    half = len(rows.classes) // 2
    base, new = rows.classes[:half], rows.classes[half:]
    shots = [row for row in rows.shots(seed) if row["name"] in base]
    X, y = opened(shots), [row["name"] for row in shots]
    tests = [(names, [row for row in rows.test if row["name"] in names]) for names in (base, new)]
    encoder, found = TorchEncoder(clip), {}
    steps = 5 * (len(X) // 4)
    epochs = max(round(steps / max(len(X) // 32, 1)), 1)
    for name, method in (
        ("zero_shot", ZeroShot(clip, base, seed=seed).fit()),
        ("coop", CoOp(clip, base, seed=seed, ctx_init="a photo of a", n_views=1, epochs=epochs)),
        ("maple", MaPLe(clip, base, seed=seed)),
    ):
        start = time.perf_counter()
        if name != "zero_shot":
            method.fit(X, y)
        row = []
        for names, part in tests:
            questions: Any = opened(part) if name == "maple" else encoder.encode_image(opened(part))
            adapter = method if names is base else method.for_classes(names)
            row.append(100 * adapter.score(questions, [one["name"] for one in part]))
        found[name] = (row[0], row[1])
        print(seed, name, found[name], f"{time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return found


def main() -> None:
    torch.set_num_threads(1)
    clip = load(sys.argv[1]).eval()
    rows = Rows(int(sys.argv[2]) if len(sys.argv) > 2 else 100)
    found = [trial(clip, rows, seed) for seed in SEEDS]
    table: dict[str, Any] = {}
    for name in ("zero_shot", "coop", "maple"):
        b, n = np.mean([row[name] for row in found], axis=0)
        H = float(np.mean([2 * x * z / (x + z) if x + z else 0.0 for x, z in (row[name] for row in found)]))
        table[name] = {"base": round(float(b), 2), "new": round(float(n), 2), "H": round(H, 2)}
        table[name]["by seed (base, new)"] = [[round(v, 1) for v in row[name]] for row in found]
    record(
        "adapt_maple",
        {
            **table,
            "base over zero-shot, points": round(table["maple"]["base"] - table["zero_shot"]["base"], 2),
            "new over CoOp, points": round(table["maple"]["new"] - table["coop"]["new"], 2),
            "H over CoOp, points": round(table["maple"]["H"] - table["coop"]["H"], 2),
            "classes": len(rows.classes),
            "test rows": len(rows.test),
        },
        wanted="CIFAR-100 base-to-new, 16 shots, 3 seeds: base at least zero-shot + 2 points, new at least CoOp's, "
        "H at least CoOp's",
        seed=SEEDS[0],
        data=digest(shared_data() / "cifar100.parquet"),
        notes=f"the first {len(rows.classes)} classes by name, half of them base, at most {MOST} test rows of each; the "
        "model is a ViT of 8 blocks, 36 patches; CoOp: ctx_init, one view, as many steps as MaPLe.",
        methods=("maple", "coop", "zero_shot"),
    )


if __name__ == "__main__":
    main()
