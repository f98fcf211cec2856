"""Does `pocket-vit` know where things are? `python -m benchmarks.dense_pocket_vit [MODEL]`.

Training-free maps of one name, against the centre prior (nearer to the middle is more likely the thing): test rows of
Tiny-ImageNet with a box of at most half of the picture, and generated scenes of two objects on plain grounds.
Figures are areas under the ROC curve over a picture's pixels, and the IoU of the best pixels, as many as the truth has.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score

from benchmarks.common import digest, is_test, record, shared_data
from binderclip import load
from binderclip.data.hashing import hash64
from binderclip.data.scenes import SceneSpec, scene
from binderclip.dense.base import BACKGROUND, Segmenter
from binderclip.dense.cliptrase import CLIPtrase
from binderclip.dense.maskclip import MaskCLIP

COUNT = 300
SPEC = SceneSpec(size=96, objects=(2, 2), alike=0, textures=("plain",), sizes=("medium", "large"), split="test")

Case = tuple[torch.Tensor, NDArray[np.bool_], str]


def boxes() -> Iterator[Case]:
    """Pictures ``[3, 64, 64]``, masks of their boxes and names, in the order of their ids' digests."""
    rows = pq.read_table(shared_data() / "tiny_imagenet.parquet", columns=["id", "image", "name", "box"]).to_pylist()
    for row in sorted((row for row in rows if is_test(row["id"])), key=lambda row: hash64(0, row["id"])):
        pixels = np.array(Image.open(io.BytesIO(row["image"])).convert("RGB"))
        x0, y0, x1, y1 = row["box"]
        mask = np.zeros(pixels.shape[:2], bool)
        mask[int(y0) : int(y1) + 1, int(x0) : int(x1) + 1] = True
        if 0.02 <= mask.mean() <= 0.5:
            yield torch.from_numpy(pixels).permute(2, 0, 1).float() / 255, mask, row["name"]


def scenes() -> Iterator[Case]:
    """Pictures ``[3, 96, 96]``, masks of one of their two objects, and its name."""
    for i in range(10**6):
        one = scene(i, SPEC)
        thing, mask = one.layout.things[0], one.masks[0]
        pixels = torch.from_numpy(np.array(one.image)).permute(2, 0, 1).float() / 255
        if mask.any():
            yield pixels, mask.astype(bool), " ".join(thing.kind)


def centre(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Minus the distance from the middle, of each pixel."""
    h, w = mask.shape
    y, x = np.mgrid[:h, :w]
    out: NDArray[np.float64] = -np.hypot((y + 0.5) / h - 0.5, (x + 0.5) / w - 0.5)
    return out


def judge(map_: NDArray[Any], mask: NDArray[np.bool_]) -> tuple[float, float]:
    """AUROC over pixels, and the IoU of as many best pixels as the truth has."""
    best = np.zeros(mask.size, bool)
    best[np.argsort(-map_.ravel(), kind="stable")[: int(mask.sum())]] = True
    truth = mask.ravel()
    return float(roc_auc_score(truth, map_.ravel())), float((best & truth).sum() / (best | truth).sum())


def main() -> None:
    """Measure and record."""
    torch.set_num_threads(1)
    clip = load(sys.argv[1] if len(sys.argv) > 1 else "pocket-vit").eval()
    ways: dict[str, Segmenter] = {
        "MaskCLIP": MaskCLIP(clip),
        "ClearCLIP (qq)": MaskCLIP(clip, affinity="qq"),
        "own patches (qk)": CLIPtrase(clip, affinity="vanilla", vote=False),
        "CLIPtrase": CLIPtrase(clip),
    }
    figures: dict[str, Any] = {}
    for name, cases in (("tiny_imagenet_boxes", boxes()), ("scenes", scenes())):
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in ("centre prior", *ways)}
        for (image, mask, text), _ in zip(cases, range(COUNT), strict=False):
            found["centre prior"].append(judge(centre(mask), mask))
            for way, made in ways.items():
                logits = made.segment(image, [text, *BACKGROUND]).numpy()
                found[way].append(judge(logits[0] - logits[1:].mean(0), mask))
        prior = np.array(found["centre prior"])
        for way, values in found.items():
            auroc, iou = np.array(values).mean(0)
            gain = np.array(values)[:, 0] - prior[:, 0]
            figures[f"{name}/{way}"] = {
                "auroc": round(float(auroc), 4),
                "iou": round(float(iou), 4),
                "auroc_over_prior": round(float(gain.mean()), 4),
                "ci95": round(float(1.96 * gain.std(ddof=1) / len(gain) ** 0.5), 4),
                "n": len(values),
            }
            print(name, way, figures[f"{name}/{way}"], flush=True)
    record(
        "dense_pocket_vit",
        figures,
        seed=0,
        data=f"tiny_imagenet.parquet {digest(shared_data() / 'tiny_imagenet.parquet')}, test rows; {SPEC}",
        wanted="training-free segmentation of scenes and of Tiny-ImageNet boxes beats the centre prior",
        notes="map: logit of the true name less the mean logit of ten names of backgrounds; every way with its defaults",
    )


if __name__ == "__main__":
    main()
