"""A small deterministic encoder, pictures to index, and all that an index holds as plain values."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from binderclip.data.media import open_image
from binderclip.search.store import Store
from binderclip.search.types import FloatArray

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 40),
    "blue": (30, 40, 220),
    "yellow": (230, 220, 30),
    "white": (250, 250, 250),
}


class FakeEncoder:
    """Average colour and an 8x8 thumbnail as the picture's vector; a text is the picture of its colours."""

    def __init__(self, fingerprint: str = "fake-1", calibration: Any = None) -> None:
        self.name, self.fingerprint, self.dim, self.min_side, self.calibration = (
            "fake",
            fingerprint,
            192,
            8,
            calibration,
        )
        self.encoded = 0
        self.turn = int(hashlib.sha256(fingerprint.encode()).hexdigest()[:4], 16) % self.dim

    def pixels(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.convert("RGB").resize((8, 8), Image.Resampling.BOX), dtype=np.uint8)

    def encode_pixels(self, pixels: np.ndarray) -> FloatArray:
        assert pixels.ndim == 4
        self.encoded += len(pixels)
        return np.stack([self._row(one) for one in pixels])

    def _row(self, pixels: np.ndarray) -> FloatArray:
        flat = pixels.astype(np.float32).reshape(-1) - 100.0
        flat = np.roll(flat, self.turn)
        return (flat / max(float(np.linalg.norm(flat)), 1e-6)).astype(np.float32)

    def encode_text(self, texts: Sequence[str]) -> FloatArray:
        return np.stack([self._row(self._drawn(text)) for text in texts])

    def _drawn(self, text: str) -> np.ndarray:
        named = [COLOURS[word] for word in text.split() if word in COLOURS]
        if named:
            colour = np.mean(named, axis=0)
        else:
            colour = np.frombuffer(hashlib.sha256(text.encode()).digest()[:3], np.uint8)
        return np.broadcast_to(np.asarray(colour, np.uint8), (8, 8, 3))

    def encode_image(self, images: Sequence[Any]) -> FloatArray:
        return np.stack([self._row(self.pixels(open_image(one).image)) for one in images])


def paint(
    path: Path, colour: tuple[int, int, int], seed: int = 0, size: tuple[int, int] = (48, 32), noise: int = 24
) -> Path:
    """Writes a noisy picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pixels = np.asarray(colour) + rng.integers(-noise, noise + 1, (size[1], size[0], 3))
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    return path


def dump(folder: Path) -> list[tuple[Any, ...]]:
    """All that an index says, without the numbers that SQLite gave its rows."""
    with Store(folder) as store:
        held: list[tuple[Any, ...]] = [("state", *sorted(store.counts().items()))]
        held += [
            (row, model.fingerprint, blob) for model in store.models() for row, blob in store.rows_with_vectors(model)
        ]
        held += [("bad", one.path, one.size, one.reason) for one in store.problems()]
    return held
