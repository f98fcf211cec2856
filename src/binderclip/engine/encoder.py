"""``Encoder``: what every use needs of a CLIP, without torch where the model is embedded or exported."""

from __future__ import annotations

import hashlib
import json
import math
import os
import unicodedata
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from binderclip.data.media import Source, open_image
from binderclip.engine.calibration import Calibration
from binderclip.engine.onnx import OnnxTowers
from binderclip.errors import InputError, MediaError
from binderclip.hub.embedded import checkpoint_folder
from binderclip.model.preprocess import Preprocess
from binderclip.model.tokenizer import Tokenizer

__all__ = ["Encoder"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

# A JPEG may be decoded small as long as its short side stays this many times the model's: at 2 the first percentile of the
# cosine to full decoding was 0.995 or more on 660 photos, at 1 it was 0.984 (benchmarks/draft_decoding.py).
DRAFT = 2
IMAGE_BATCH = 16
TEXT_BATCH = 64


class Towers(Protocol):
    """What runs the two towers: ONNX Runtime or torch."""

    def image(self, pixels: Floats) -> Floats:
        """``[N, 3, H, W]`` normalised pixels -> ``[N, D]``."""
        ...

    def text(self, ids: Ints, eos: Ints) -> Floats:
        """``[N, L]`` ids and ``[N]`` end positions -> ``[N, D]``."""
        ...


class Encoder:
    """Pictures and texts to unit vectors in one space.

    Args:
        name: an embedded model (``"pocket"``), a folder that ``binderclip`` saved, or any checkpoint that
            ``binderclip.load`` takes (that needs the extra ``torch``).
        threads: for the model; ``None`` uses every core.

    Attributes:
        name: as given.
        dim: length ``D`` of a vector.
        fingerprint: 16 hexadecimal digits of weights, preprocess and tokenizer; equal ones make comparable vectors.

    Raises:
        UnknownNameError: no such model.
        CheckpointError: files missing or damaged.
        NeedsExtraError: the model has to run in torch, which is not installed.

    Example:
        >>> encoder = Encoder("pocket")
        >>> encoder.encode_text(["a red bicycle", "a bowl of soup"]).shape == (2, encoder.dim)
        True
    """

    def __init__(self, name: str = "pocket", *, threads: int | None = None) -> None:
        self.name = name
        folder = checkpoint_folder(name)
        self.towers: Towers
        shares = {} if folder is None else shared_towers(read_config(folder))
        if folder is not None and OnnxTowers.serves(folder, shares):
            self.config = read_config(folder)
            self.towers = OnnxTowers(folder, threads, shares)
            self.tokenizer = Tokenizer.from_config(self.config["tokenizer"], folder)
            self.preprocess = Preprocess.from_dict(self.config["preprocess"])
            self.fingerprint = fingerprint_of(folder, self.config)
            self.calibration = Calibration.load(folder, self.config)
        else:
            from binderclip.engine.torch_towers import TorchTowers

            towers = TorchTowers(name, threads)
            self.towers, self.config = towers, towers.config
            self.tokenizer, self.preprocess = towers.tokenizer, towers.preprocess
            self.fingerprint, self.calibration = towers.fingerprint, towers.calibration
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
        rows = [self.towers.image(self.preprocess.normalize(part)) for part in _parts(pixels, IMAGE_BATCH)]
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
            starts = list(range(0, len(images), IMAGE_BATCH))
            ahead = [pool.submit(self._load, item) for item in images[:IMAGE_BATCH]]
            for start in starts:
                now, stop = ahead, start + IMAGE_BATCH
                ahead = [pool.submit(self._load, item) for item in images[stop : stop + IMAGE_BATCH]]
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


def read_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a checkpoint folder."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def shared_towers(config: dict[str, Any]) -> dict[str, Path]:
    """Tower to folder of the embedded model whose tower it is; empty for a model that has all its own."""
    found = {tower: checkpoint_folder(owner) for tower, owner in config.get("shares", {}).items()}
    return {tower: place for tower, place in found.items() if place is not None}


def fingerprint_of(folder: Path, config: dict[str, Any]) -> str:
    """16 hexadecimal digits that change when the vectors may change: weights, preprocess, tokenizer."""
    digest = hashlib.sha256()
    with open(folder / "model.safetensors", "rb") as stream:
        digest.update(hashlib.file_digest(stream, "sha256").digest())
    for owner in shared_towers(config).values():
        with open(owner / "model.safetensors", "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    digest.update(json.dumps([config["preprocess"], config["tokenizer"]], sort_keys=True).encode())
    return digest.hexdigest()[:16]


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
