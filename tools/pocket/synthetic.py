"""Pictures made of training cut-outs, so that the space knows colours and "A and B": features through the same backbone.

``tinted``: each cut-out in eight colours. ``pairs``: two cut-outs on one page. Test cut-outs are measured in the same way by
``measure.py``; none of them is used here.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
import torch
from PIL import Image
from torch import Tensor

from pocket.features import PREPROCESS, export_backbone, flatten
from pocket.inputs import Paths, is_test, save_arrays
from pocket.teacher import Lookup

# Hue of Pillow's HSV (0..255); grey has no saturation.
HUES = {"red": 0, "orange": 21, "yellow": 42, "green": 85, "blue": 165, "purple": 195, "pink": 230, "grey": -1}
PAIRS = 2000


def tint(image: Image.Image, colour: str, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """A cut-out (RGBA) in another colour, on a page."""
    inside = np.array(image.getchannel("A")) > 128
    hsv = np.array(flatten(image, background).convert("HSV"))
    hue = HUES[colour]
    hsv[..., 0] = np.where(inside, max(hue, 0), hsv[..., 0])
    saturated = np.maximum(hsv[..., 1], 170) if hue >= 0 else np.zeros_like(hsv[..., 1])
    hsv[..., 1] = np.where(inside, saturated, hsv[..., 1])
    return Image.fromarray(hsv, "HSV").convert("RGB")


def pair(a: Image.Image, b: Image.Image) -> Image.Image:
    """Two cut-outs (RGBA) side by side on a white page of 224 pixels."""
    page = Image.new("RGB", (224, 224), "white")
    for left, image in ((0, a), (112, b)):
        small = image.copy()
        small.thumbnail((100, 140))
        page.paste(small, (left + (112 - small.width) // 2, (224 - small.height) // 2), small)
    return page


def noun(caption: str) -> str:
    """``A frog.`` -> ``frog``."""
    text = caption.rstrip(".").lower()
    return text.split(" ", 1)[1] if text.startswith(("a ", "an ", "the ")) and " " in text else text


def cut_outs(paths: Paths, test: bool) -> list[tuple[str, Image.Image]]:
    """Caption and RGBA picture of stamps with short captions, symbols left out, in the table's order."""
    rows = [r for r in paths.table("stamps", ["id", "image", "caption", "category"]) if is_test(r["id"]) == test]
    rows = [r for r in rows if r["category"] != "symbols" and 1 < len(r["caption"].split()) <= 4]
    return [(r["caption"], Image.open(io.BytesIO(r["image"])).convert("RGBA")) for r in rows]


def extract(paths: Paths, seed: int = 0) -> None:
    """Fill ``features/synthetic.npz``."""
    target = paths.work / "features" / "synthetic.npz"
    if target.is_file():
        return
    rng = np.random.default_rng(seed)
    items = cut_outs(paths, test=False)
    session = ort.InferenceSession(str(export_backbone(paths)), providers=["CPUExecutionProvider"])

    def run(images: list[Image.Image]) -> np.ndarray:
        parts = []
        for start in range(0, len(images), 16):
            pixels = np.stack([PREPROCESS(image) for image in images[start : start + 16]])
            parts.append(session.run(["features"], {"pixels": PREPROCESS.normalize(pixels)})[0])
        return np.concatenate(parts).astype(np.float16)

    grounds = [(255, 255, 255), (255, 255, 255), (128, 128, 128), (210, 220, 230)]
    tinted = [tint(image, c, grounds[int(rng.integers(4))]) for _, image in items for c in HUES]
    chosen = np.array([rng.choice(len(items), 2, replace=False) for _ in range(PAIRS)])
    paired = [pair(items[a][1], items[b][1]) for a, b in chosen]
    captions = np.array([caption for caption, _ in items])
    save_arrays(target, captions=captions, tinted=run(tinted), pairs=run(paired), chosen=chosen)


@dataclass
class Composed:
    """Features and texts of the synthetic pictures.

    Attributes:
        tinted: ``[T, F]``; colour ``[T]``; texts ``[T / 8, 8, D]`` of each thing in each colour.
        pairs: ``[P, F]``; texts ``[P, 5, D]``: the true one first, then four with one thing exchanged.
    """

    tinted: Tensor
    colours: Tensor
    pairs: Tensor
    pair_texts: Tensor


def load(paths: Paths, look: Lookup, seed: int = 1, keep: object = None) -> Composed:
    """Read the cache and look the texts up."""
    extract(paths)
    stored = np.load(paths.work / "features" / "synthetic.npz")
    allowed = keep if callable(keep) else (lambda _: True)
    things = [noun(str(c)) for c in stored["captions"]]
    kept = [i for i, c in enumerate(stored["captions"]) if allowed(str(c))]
    rng = np.random.default_rng(seed)
    colours = look([f"a {colour} {things[i]}" for i in kept for colour in HUES]).reshape(len(kept), len(HUES), -1)
    tinted = stored["tinted"].reshape(len(things), len(HUES), -1)[kept].astype(np.float32)
    texts, rows = [], []
    for row, (a, b) in enumerate(stored["chosen"]):
        if a in kept and b in kept:
            others = rng.choice(kept, 4)
            texts += [f"a {things[a]} and a {things[b]}", *(f"a {things[a]} and a {things[c]}" for c in others[:2])]
            texts += [f"a {things[c]} and a {things[b]}" for c in others[2:]]
            rows.append(row)
    vectors = look(texts).reshape(len(rows), 5, -1)
    features = stored["pairs"][rows].astype(np.float32)
    return Composed(*(torch.from_numpy(x) for x in (tinted, colours, features, vectors)))
