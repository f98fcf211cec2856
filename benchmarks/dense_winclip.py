"""WinCLIP on objects with pasted damage, and on corrupted photos. `python -m benchmarks.dense_winclip [MODEL]`.

Test stamps (cut-out objects) lie on a grainy ground; the damaged ones carry a scratch and a blob over about a tenth of the
object. Photos: the first test rows of the ImageNet photos, clean and with severe blur, noise or blocks.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageDraw
from sklearn.metrics import roc_auc_score

from benchmarks.common import digest, is_test, record, shared_data
from binderclip import load
from binderclip.data.hashing import Draws
from binderclip.dense.winclip import WinCLIP
from binderclip.evaluate.corruption import corrupt
from binderclip.evaluate.metrics.segmentation import pro

OBJECTS, EACH, SIDE, PHOTOS = 16, 3, 192, 150


def rows(table: str) -> list[dict[str, Any]]:
    return [row for row in pq.read_table(shared_data() / f"{table}.parquet").to_pylist() if is_test(row["id"])]


def scene(stamp: Image.Image, key: str, damaged: bool) -> tuple[Image.Image, Any]:
    """The object on its ground, a little moved each time, and the mask of its damage."""
    draws = Draws(0, key)
    rng = np.random.default_rng(int(draws.unit("ground") * 2**32))
    coarse = Image.fromarray(rng.integers(120, 180, (SIDE // 6, SIDE // 6, 3), dtype=np.uint8))
    ground = coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    thing = stamp.copy()
    thing.thumbnail((150, 150))
    at = tuple(int((SIDE - side) / 2 + 10 * (draws.unit(f"move/{i}") - 0.5)) for i, side in enumerate(thing.size))
    ground.paste(thing, at, thing)
    mask = Image.new("L", (SIDE, SIDE), 0)
    if damaged:
        alpha = np.zeros((SIDE, SIDE), bool)
        alpha[at[1] : at[1] + thing.height, at[0] : at[0] + thing.width] = np.asarray(thing.getchannel("A")) > 128
        inside = np.argwhere(alpha)
        y, x = inside[int(draws.unit("place") * len(inside))].tolist()
        r = max((0.06 * len(inside) / np.pi) ** 0.5, 4)
        turn = 6.2832 * draws.unit("turn")
        end = (x + 60 * np.cos(turn), y + 60 * np.sin(turn))
        colour = tuple(int(255 * draws.unit(f"colour/{i}")) for i in range(3))
        for image, fill in ((ground, colour), (mask, 255)):
            pen = ImageDraw.Draw(image)
            pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
            pen.line((x, y, *end), fill=fill, width=4)
    return ground, np.asarray(mask) > 0


def damage(clip: Any) -> dict[str, Any]:
    """Pixel AUROC, PRO and image AUROC by number of sound references, and of patches alone."""
    found = [row for row in rows("stamps") if row["category"] in ("food", "household", "vehicles", "animals")][:OBJECTS]
    if len(found) < OBJECTS:
        found = rows("stamps")[:OBJECTS]
    columns: dict[str, Any] = {"words": (0, {}), "k=1": (1, {}), "k=2": (2, {}), "k=4": (4, {})}
    columns["k=4, patches alone"] = (4, {"scales": (), "full": True})
    out = {}
    for name, (k, options) in columns.items():
        truth, scores, maps, masks, hits = [], [], [], [], []
        for row in found:
            stamp, thing = Image.open(io.BytesIO(row["image"])).convert("RGBA"), row["caption"].strip(" .").lower()
            made = WinCLIP(clip, **options).fit([scene(stamp, f"{row['id']}/normal/{i}", False)[0] for i in range(k)])
            own, marks = [], []
            for i in range(EACH):
                for damaged in (False, True):
                    image, mask = scene(stamp, f"{row['id']}/{damaged}/{i}", damaged)
                    own.append(made.segment(image, [thing])[0].numpy())
                    marks.append(mask)
                    truth.append(damaged)
                    scores.append(made.score(image, thing))
            hits.append(roc_auc_score(np.concatenate(marks, None).ravel(), np.concatenate(own, None).ravel()))
            maps += own
            masks += marks
        figures = {"pixel_auroc": float(np.mean(hits)), "pro": pro(maps, [m.astype(int) for m in masks])}
        out[name] = {key: round(v, 4) for key, v in figures.items()} | {
            "image_auroc": round(float(roc_auc_score(truth, scores)), 4)
        }
        print(name, out[name], flush=True)
    return out


def corrupted(clip: Any) -> dict[str, float]:
    """Image AUROC of the damaged states on photos: clean ones against each corruption at its strongest."""
    photos = [Image.open(io.BytesIO(row["image"])).convert("RGB") for row in rows("imagenet1k_photos")[:PHOTOS]]
    size = clip.preprocess.size
    square = [photo.resize((size, size), Image.Resampling.BICUBIC) for photo in photos]
    made, out = WinCLIP(clip), {}
    clean = [made.score(photo, "object") for photo in square]
    for kind in ("gaussian_noise", "defocus_blur", "pixelate", "jpeg"):
        worse = [made.score(corrupt(p, kind, 5, key=str(i)), "object") for i, p in enumerate(square)]
        out[kind] = round(float(roc_auc_score([0] * len(clean) + [1] * len(worse), clean + worse)), 4)
        print(kind, out[kind], flush=True)
    return out | {"mean": round(float(np.mean(list(out.values()))), 4)}


def main() -> None:
    """Measure and record."""
    torch.set_num_threads(1)
    name = sys.argv[1] if len(sys.argv) > 1 else "pocket-vit"
    clip = load(name).eval()
    figures = {"damage": damage(clip), "corrupted photos against clean ones": corrupted(clip)}
    record(
        "dense_winclip",
        figures,
        wanted="pixel AUROC >= 0.80 with 1 to 4 references, rising (or tied within 0.5) from 1 to 4, windows over patches "
        "alone; image AUROC of damaged states on corrupted against clean photos over 0.6",
        seed=0,
        data=digest(shared_data() / "stamps.parquet", shared_data() / "imagenet1k_photos.parquet"),
        notes=f"{Path(name).name if '/' in name else name}; {OBJECTS} test stamps, {EACH} sound and {EACH} damaged pictures "
        f"of each; pixel AUROC is the mean over objects; {PHOTOS} test photos, severity 5",
        methods=("winclip",),
    )


if __name__ == "__main__":
    main()
