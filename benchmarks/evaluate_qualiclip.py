"""QualiCLIP on pocket: 300 steps on photos, levels ranked on unseen ones: `python -m benchmarks.evaluate_qualiclip`.

Photos are split by the hash of their ids: a fifth is measured on, 40 others choose the learning rate, the rest trains. Five
kinds of degradation, by their hash, are never trained on.
"""

from __future__ import annotations

import hashlib
import io
import time
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageOps

import binderclip
from benchmarks.common import digest, record, shared_data
from binderclip.data.hashing import Draws, hash64
from binderclip.evaluate.base import mean_of
from binderclip.evaluate.data import Dataset, Item, Sets
from binderclip.evaluate.degrade import KINDS, degrade
from binderclip.evaluate.models import vectors_of
from binderclip.evaluate.probes.zero_shot import ZeroShot
from binderclip.evaluate.qualiclip import QualityProbe, QualityRanking
from binderclip.model.clip import CLIP

SIDE, STEPS, BATCH = 128, 300, 3
RATES = (1e-5, 3e-5, 1e-4)
HELD_OUT = tuple(sorted(KINDS, key=lambda kind: hash64(0, kind))[:5])
TRAINED = tuple(kind for kind in KINDS if kind not in HELD_OUT)


def photos() -> tuple[dict[str, list[tuple[str, Image.Image]]], Dataset]:
    """Photos by what they are for, and those that are measured on with their classes."""
    rows = pq.read_table(shared_data() / "imagenet1k_photos.parquet").to_pylist()
    names = [row["name"].split(",")[0].strip() for row in rows]
    parts: dict[str, list[tuple[str, Image.Image]]] = {"train": [], "validation": [], "test": []}
    items, classes = [], [name for name in names if names.count(name) == 1]
    for row, name in zip(rows, names, strict=True):
        data = row["image"]["bytes"] if isinstance(row["image"], dict) else row["image"]
        part = int(hashlib.sha256(row["id"].encode()).hexdigest()[:8], 16) % 5
        which = "test" if part == 0 else "validation" if part == 1 and len(parts["validation"]) < 40 else "train"
        parts[which].append((row["id"], Image.open(io.BytesIO(data)).convert("RGB")))
        if which == "test" and name in classes:
            items.append(Item(row["id"], data, (classes.index(name),)))
    return parts, Dataset("imagenet1k_photos", tuple(items), tuple(classes))


def ranking(clip: CLIP, pictures: list[tuple[str, Image.Image]]) -> dict[str, list[float]]:
    """Share of pairs of levels in the right order, of each picture: four trained kinds, two held-out ones."""
    probe, out = QualityProbe(clip), {"trained": list[float](), "held_out": list[float]()}
    for key, picture in pictures:
        crop = ImageOps.fit(picture, (SIDE, SIDE), Image.Resampling.BICUBIC)
        draws = Draws(1, f"ranking/{key}")
        for name, kinds, count in (("trained", TRAINED, 4), ("held_out", HELD_OUT, 2)):
            shares = []
            for kind in draws.shuffled(name, kinds)[:count]:
                q = probe.score([degrade(crop, kind, level, key=key, seed=1) for level in range(1, 6)])
                shares.append(np.mean([q[i] > q[j] for i in range(5) for j in range(i + 1, 5)]))
            out[name].append(float(np.mean(shares)))
    return out


def shown(values: list[float]) -> dict[str, Any]:
    """Mean over pictures with its interval."""
    m = mean_of("", values)
    assert m.low is not None
    assert m.high is not None
    return {"value": round(m.value, 4), "n": m.n, "ci95": [round(m.low, 4), round(m.high, 4)]}


def main() -> None:
    """Measure and record."""
    torch.set_num_threads(1)
    parts, data = photos()
    clip = binderclip.load("pocket").eval()
    train = [image for _, image in parts["train"]]
    chosen: dict[float, float] = {}
    for rate in RATES:
        tuned = QualityRanking(kinds=TRAINED, lr=rate, steps=40, batch=2, size=SIDE).fit(clip, train)
        chosen[rate] = float(np.mean(ranking(tuned, parts["validation"])["trained"]))
        print(rate, chosen[rate], flush=True)
    rate = max(chosen, key=lambda one: chosen[one])
    losses: list[float] = []
    began = time.process_time()
    tuned = QualityRanking(kinds=TRAINED, lr=rate, steps=STEPS, batch=BATCH, size=SIDE).fit(
        clip, train, lambda step, loss: losses.append(loss["total"])
    )
    seconds = time.process_time() - began
    before, after = ranking(clip, parts["test"]), ranking(tuned, parts["test"])
    accuracy = [ZeroShot().run(vectors_of(one), Sets(data))["acc1"] for one in (clip, tuned)]
    record(
        "evaluate_qualiclip",
        {
            "photos": {name: len(part) for name, part in parts.items()},
            "held_out_kinds": list(HELD_OUT),
            "validation_by_lr": {f"{one:g}": round(value, 4) for one, value in chosen.items()},
            "lr": rate,
            "cpu_seconds_of_training": round(seconds),
            "loss_first_and_last_30": [round(float(np.mean(part)), 4) for part in (losses[:30], losses[-30:])],
            "level_ranking": {
                name: {"untuned": shown(before[name]), "tuned": shown(after[name])} for name in ("trained", "held_out")
            },
            "all_kinds": {
                name: shown([(4 * a + 2 * b) / 6 for a, b in zip(part["trained"], part["held_out"], strict=True)])
                for name, part in (("untuned", before), ("tuned", after))
            },
            "zero_shot_acc1": {"n": len(data), "untuned": round(accuracy[0], 4), "tuned": round(accuracy[1], 4)},
        },
        wanted="level-ranking accuracy on unseen photos rises by at least 10 points over the untuned prompt score, and is "
        "over 60 % on held-out kinds; drop of zero-shot class accuracy reported",
        seed=0,
        data=digest(shared_data() / "imagenet1k_photos.parquet"),
        notes=f"pocket, crops of {SIDE} pixels, {STEPS} steps of {BATCH}; a tie is wrong; zero-shot among all classes at "
        "the model's own size",
        methods=("qualiclip",),
    )


if __name__ == "__main__":
    main()
