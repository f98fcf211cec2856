"""``Encoder``: what every use needs of a CLIP, without torch where the model is embedded or exported."""

from __future__ import annotations

import math
import os
import unicodedata
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from binderclip.data.media import Source, open_image
from binderclip.engine.opening import open_model
from binderclip.errors import InputError, MediaError

__all__ = ["Encoder"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

# A JPEG may be decoded small as long as its short side stays this many times the model's: at 2 the first percentile of the
# cosine to full decoding was 0.995 or more on 660 photos, at 1 it was 0.984 (benchmarks/draft_decoding.py).
DRAFT = 2
IMAGE_BATCH = 16
TEXT_BATCH = 64


class Encoder:
    """Pictures and texts to unit vectors in one space.

    Args:
        name: an embedded model (``"pocket"``), a folder that ``binderclip`` saved, or any checkpoint that
            ``binderclip.load`` takes (that needs the extra ``torch``).
        threads: for the model; ``None`` uses what ``binderclip tune`` found, or every core.
        engine: ``onnx``, ``openvino`` or ``torch``; by default the variable ``BINDERCLIP_ENGINE``, then what
            ``binderclip tune`` found, then ONNX Runtime where the model has graphs, else torch.

    Attributes:
        name: as given.
        engine: the one that runs.
        batch: pictures a call of the image tower.
        dim: length ``D`` of a vector.
        fingerprint: 16 hexadecimal digits of weights, preprocess and tokenizer; equal ones make comparable vectors.

    Raises:
        UnknownNameError: no such model.
        CheckpointError: files missing or damaged.
        InputError: no such engine.
        NeedsExtraError: the engine that it has to run on is not installed.

    Example:
        >>> encoder = Encoder("pocket")
        >>> encoder.encode_text(["a red bicycle", "a bowl of soup"]).shape == (2, encoder.dim)
        True
    """

    def __init__(self, name: str = "pocket", *, threads: int | None = None, engine: str | None = None) -> None:
        self.name = name
        opened = open_model(name, threads, engine)
        self.towers, self.engine, self.config = opened.towers, opened.engine, opened.config
        self.tokenizer, self.preprocess = opened.tokenizer, opened.preprocess
        self.fingerprint, self.calibration = opened.fingerprint, opened.calibration
        self.batch = opened.batch or IMAGE_BATCH
        self.dim = int(self.config["embed_dim"])
        self._told_script = False

    def __repr__(self) -> str:
        return f"Encoder({self.name!r}, dim={self.dim})"

    @cached_property
    def min_side(self) -> int:
        """Short side below which a JPEG must not be shrunk while it is decoded, in pixels."""
        return self.preprocess.min_side * int(self.config.get("draft", DRAFT))

    @cached_property
    def logit_scale(self) -> float:
        """Factor on cosines before a softmax over classes, as the model was trained with (CLIP's usual 100 where unsaid)."""
        value = float(self.config.get("logit_scale", math.log(100.0)))
        return math.exp(value) if self.config.get("exponential", True) else value

    def pixels(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """8-bit model input ``[H, W, 3]`` of one RGB picture; may be called from several threads."""
        return self.preprocess(image)

    def encode_pixels(self, pixels: npt.NDArray[np.uint8]) -> Floats:
        """Unit rows ``[N, D]`` of 8-bit model inputs ``[N, H, W, 3]``."""
        rows = [self.towers.image(self.preprocess.normalize(part)) for part in _parts(pixels, self.batch)]
        return _unit(np.concatenate(rows)) if rows else np.empty((0, self.dim), np.float32)

    @property
    def clip(self) -> Any:
        """The torch module, where this encoder runs one; None where it runs an exported graph."""
        return getattr(self.towers, "clip", None)

    def encode_image(self, images: Sequence[Source]) -> Floats:
        """Unit rows ``[N, D]`` of paths, file contents or Pillow images, float32.

        Raises:
            MediaError: one of them cannot be decoded; the message names it.
        """
        if isinstance(images, str | bytes | os.PathLike | Image.Image):
            raise InputError("give a list of images, not one")
        out = np.empty((len(images), self.dim), np.float32)
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            # One batch is decoded ahead while the model works on the batch before it.
            starts = list(range(0, len(images), self.batch))
            ahead = [pool.submit(self._load, item) for item in images[: self.batch]]
            for start in starts:
                now, stop = ahead, start + self.batch
                ahead = [pool.submit(self._load, item) for item in images[stop : stop + self.batch]]
                out[start:stop] = self.encode_pixels(np.stack([future.result() for future in now]))
        return out

    def encode_text(self, texts: Sequence[str]) -> Floats:
        """Unit rows ``[N, D]`` of strings, float32. Texts beyond the context length are cut, with one warning."""
        if isinstance(texts, str):
            raise InputError("give a list of texts, not one string")
        self._warn_of_script(texts)
        out = np.empty((len(texts), self.dim), np.float32)
        # Rows of like length share a batch, so that little padding is computed.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), TEXT_BATCH):
            rows = order[start : start + TEXT_BATCH]
            ids, eos = self.tokenizer([texts[i] for i in rows])
            out[rows] = self.towers.text(ids, eos)
        return _unit(out)

    def _load(self, source: Source) -> npt.NDArray[np.uint8]:
        try:
            return self.preprocess(open_image(source, min_side=self.min_side).image)
        except MediaError as error:
            if isinstance(source, str | os.PathLike):
                raise MediaError(f"{os.fspath(source)}: {error}") from None
            raise

    def _warn_of_script(self, texts: Sequence[str]) -> None:
        """Say once that the text tower never learnt a script: its answer would look like any other."""
        known = self.config.get("scripts")
        if self._told_script or not known:
            return
        for text in texts:
            script = foreign_script(text, known)
            if script:
                self._told_script = True
                languages = ", ".join(self.config.get("languages", [])) or "/".join(known)
                warnings.warn(
                    f"{text[:40]!r} is written in {script.title()} script, which {self.name} never learnt "
                    f"(it knows: {languages}): expect chance results, or use a multilingual model",
                    UserWarning,
                    stacklevel=3,
                )
                return


def foreign_script(text: str, known: Sequence[str]) -> str | None:
    """The script that most letters of a text are in, when it is none of ``known`` (Unicode's names, ``"LATIN"``)."""
    counts: dict[str, int] = {}
    for letter in text[:200]:
        if letter.isalpha():
            script = "LATIN" if letter.isascii() else unicodedata.name(letter, "UNKNOWN").split(" ")[0].split("-")[0]
            counts[script] = counts.get(script, 0) + 1
    if not counts:
        return None
    most = max(counts, key=lambda script: counts[script])
    return None if most in known else most


def _parts(pixels: npt.NDArray[np.uint8], size: int) -> list[npt.NDArray[np.uint8]]:
    return [pixels[i : i + size] for i in range(0, len(pixels), size)]


def _unit(rows: Floats) -> Floats:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    out: Floats = (rows / np.maximum(norms, 1e-12)).astype(np.float32)
    return out
