"""A toy model and toy data: pictures are plain colours, and the model knows the names of colours."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from binderclip.data.media import open_image
from binderclip.evaluate.data import Dataset, Item

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 40),
    "blue": (30, 40, 220),
    "yellow": (230, 220, 20),
    "violet": (150, 20, 200),
    "grey": (128, 128, 128),
}


class ColourEncoder:
    """Mean colour -> direction; a text is the mean of the colours it names. Counts what it was asked for.

    Args:
        fingerprint: of the model.
        noise: of the vectors, drawn from the content.
    """

    name = "colours"
    logit_scale = 20.0

    def __init__(self, fingerprint: str = "c0", noise: float = 0.0) -> None:
        self.fingerprint, self.noise = fingerprint, noise
        self.pictures = self.sentences = self.calls = 0

    def encode_image(self, images: Sequence[Any]) -> np.ndarray:
        rows = [np.asarray(open_image(image).image, np.float64).mean((0, 1)) for image in images]
        self.calls += 1
        self.pictures += len(rows)
        return self._unit(np.array(rows), [row.tobytes() for row in rows], 0.02)

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        self.sentences += len(texts)
        rows = []
        for text in texts:
            words = [
                COLOURS[word] for word in text.lower().replace(".", " ").replace(",", " ").split() if word in COLOURS
            ]
            rows.append(np.mean(words, axis=0) if words else np.full(3, 128.0))
        return self._unit(np.array(rows), [text.encode() for text in texts], -0.02)

    def _unit(self, colours: np.ndarray, keys: Sequence[bytes], side: float) -> np.ndarray:
        x = np.concatenate(
            [colours / 255.0 - 0.4, np.full((len(colours), 1), side), np.zeros((len(colours), 4))], axis=1
        )
        for row, key in zip(x, keys, strict=True):
            seed = int.from_bytes(hashlib.sha256(key).digest()[:4], "big")
            row += self.noise * np.random.default_rng(seed).normal(size=8)
        x[:, 4] += 1e-3
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def picture(colour: str, number: int, side: int = 16) -> Image.Image:
    """A plain picture of nearly that colour."""
    rng = np.random.default_rng(number)
    base = np.array(COLOURS[colour]) + rng.integers(-25, 26, 3)
    return Image.fromarray(np.tile(base.clip(0, 255).astype(np.uint8), (side, side, 1)))


def colours(per_class: int = 6, *, captions: int = 0, start: int = 0, name: str = "colours") -> Dataset:
    """A data set of plain pictures in memory."""
    names = tuple(COLOURS)
    items = [
        Item(
            f"{colour}/{n}",
            picture(colour, 100 * k + start + n),
            (k,),
            tuple(f"a {colour} thing number {n} {c}" for c in range(captions)),
        )
        for k, colour in enumerate(names)
        for n in range(per_class)
    ]
    return Dataset(name, tuple(items), names)


def write_folder(root: Path, per_class: int = 5, start: int = 0) -> Path:
    """The same as a folder of class folders."""
    for k, colour in enumerate(COLOURS):
        (root / colour).mkdir(parents=True)
        for n in range(per_class):
            picture(colour, 100 * k + start + n).save(root / colour / f"{n}.png")
    return root
