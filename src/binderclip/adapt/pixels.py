"""Adapters that work on pictures themselves: what they are given, as pictures that open when they are needed."""

from __future__ import annotations

import hashlib
import os
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from binderclip.adapt.base import Adapter, Few, numbers_of
from binderclip.adapt.parts import Floats, Ints
from binderclip.adapt.prompts import clip_of
from binderclip.data.hashing import Draws
from binderclip.data.media import open_image
from binderclip.data.pairs import Pairs
from binderclip.data.transforms import Augment
from binderclip.errors import InputError, MediaError, NeedsPartError

__all__ = ["Pictures", "PixelAdapter", "content_key", "draw_view", "pictures_of"]

BATCH = 16
Lost = list[tuple[str, str]]


@dataclass(frozen=True)
class Pictures:
    """Pictures of any kind.

    Args:
        sources: paths, file contents or Pillow images.
        ids: what they are called in messages, and drawn by where they have names of their own.
        labels: of the rows, by name or number, where all have one.
        strict: whether one that cannot be read is an error; else it is left out.
    """

    sources: Sequence[Any]
    ids: Sequence[str]
    labels: Sequence[Any] | None = None
    strict: bool = True


def pictures_of(X: Any) -> Pictures:
    """`Pairs`, a list of paths, file contents or Pillow images, or 8-bit arrays ``[N, H, W, 3]``.

    Raises:
        InputError: nothing there, or numbers that are no pictures.
    """
    if isinstance(X, Pairs):
        rows = [row for row in X if row.image is not None]
        labels = [None if row.label is None else X.label_name(row.label) if X.classes else row.label for row in rows]
        known = None if None in labels else labels
        return Pictures([row.image for row in rows], [row.id for row in rows], known, strict=False)
    if isinstance(X, list | tuple) and X and all(isinstance(one, str | bytes | os.PathLike | Image.Image) for one in X):
        return Pictures(
            X, [os.fsdecode(x) if isinstance(x, str | os.PathLike) else f"row {i}" for i, x in enumerate(X)]
        )
    if isinstance(X, list | tuple) and not X:
        return Pictures((), ())
    made = np.asarray(X) if not isinstance(X, list | tuple) or all(isinstance(one, np.ndarray) for one in X) else None
    if made is None or made.dtype != np.uint8 or made.ndim != 4 or made.shape[3] != 3:
        raise InputError("this method works on pixels: give Pairs, a list of pictures, or 8-bit arrays [N, H, W, 3]")
    return Pictures([Image.fromarray(one) for one in made], [f"row {i}" for i in range(len(made))])


def content_key(image: Image.Image) -> str:
    """A name for a picture from its pixels alone."""
    return hashlib.blake2b(f"{image.size}".encode() + image.tobytes(), digest_size=8).hexdigest()


def draw_view(image: Image.Image, view: Augment, draws: Draws, size: int, interpolation: str) -> NDArray[np.uint8]:
    """A random view of a picture ``[size, size, 3]``, 8-bit."""
    made = view.draw(draws, "view", image.width, image.height, size=size, interpolation=interpolation)
    return np.asarray(made(image), np.uint8)


class PixelAdapter(Adapter):
    """An adapter whose picture features are not the model's own: it sees the pixels, at fit and at use.

    A subclass learns in `_fit_pictures` and answers in `_pixel_logits`.
    """

    takes = "pixels"
    validates = False

    def fit(
        self, X: Any = None, y: Any = None, *, X_unlabelled: Any = None, X_val: Any = None, y_val: Any = None
    ) -> Self:
        """Learn from labelled pictures; those for validation are not looked at: the last epoch is the result.

        Args:
            X: `Pairs`, a list of paths, file contents or Pillow images, or 8-bit arrays ``[N, H, W, 3]``.
            y: numbers of classes in the order of `classes`, or names; None takes the labels that X carries.
            X_unlabelled: cannot be used.
            X_val: without effect.
            y_val: without effect.

        Raises:
            InputError: no labels, labels that fit no class, or what is no picture.
            MediaError: a picture of a list cannot be decoded; of `Pairs` such rows are left out and counted in a warning.
        """
        if X is None or X_unlabelled is not None:
            raise InputError(f"{type(self).__name__} learns from labelled pictures: give X and y alone")
        found = pictures_of(X)
        images = [self._open(source) if found.strict else self._tolerant(source) for source in found.sources]
        kept = [i for i, image in enumerate(images) if image is not None]
        labels = found.labels if y is None else y
        if labels is None or not kept:
            raise InputError(f"{type(self).__name__} learns from labelled pictures: give X and y")
        if len(kept) < len(images):
            warnings.warn(f"{len(images) - len(kept)} of {len(images)} pictures were left out", stacklevel=2)
        marks = numbers_of(labels, self.classes, len(images))[kept]
        self.hyper_, self.history_ = {}, []
        self._begin()
        self._fit_pictures([found.sources[i] for i in kept], [str(images[i]) for i in kept], marks)
        return self

    @abstractmethod
    def _fit_pictures(self, sources: Sequence[Any], keys: Sequence[str], y: Ints) -> None:
        """Learn from pictures that can be read; keys are names from their content."""

    @abstractmethod
    def _pixel_logits(self, pixels: Tensor) -> Tensor:
        """Logits ``[N, C]`` of normalised pixels ``[N, 3, H, W]``."""

    def _fit(self, few: Few) -> None:
        raise InputError(f"{type(self).__name__} works on pixels: give pictures")

    def _logits(self, f: Floats) -> Floats:
        raise InputError(f"{type(self).__name__} works on pixels: give pictures")

    def decision_function(self, X: Any) -> NDArray[np.float32]:
        """Logits ``[N, C]`` float32 of pictures in any form that `fit` takes.

        Raises:
            InputError: it was not fitted yet, or X are no pictures.
            MediaError: one cannot be decoded.
        """
        found = pictures_of(X)
        logits, _, lost = self.decide(found.sources, found.ids)
        if lost:
            raise MediaError(lost[0][1] if lost[0][0] in lost[0][1] else f"{lost[0][0]}: {lost[0][1]}")
        return logits

    def decide(self, images: Sequence[Any], ids: Sequence[str]) -> tuple[NDArray[np.float32], list[int], Lost]:
        """As every adapter's."""
        if not hasattr(self, "W_"):
            raise InputError(f"this {type(self).__name__} has learnt nothing yet: call fit first")
        parts: list[NDArray[np.float32]] = [np.empty((0, len(self.classes)), np.float32)]
        kept: list[int] = []
        lost: Lost = []
        for start in range(0, len(images), BATCH):
            opened = []
            for i in range(start, min(start + BATCH, len(images))):
                try:
                    opened.append(open_image(images[i], min_side=self._min_side).image)
                    kept.append(i)
                except MediaError as error:
                    lost.append((ids[i], str(error)))
            if opened:
                parts.append(self._answer(opened).astype(np.float32))
        return np.concatenate(parts), kept, lost

    def _answer(self, images: Sequence[Image.Image]) -> NDArray[Any]:
        """Logits ``[N, C]`` of opened pictures."""
        prepare = self._prepare
        with torch.no_grad():
            return self._pixel_logits(self._normalised([prepare(image) for image in images])).double().cpu().numpy()

    def _tried(self) -> tuple[int, ...]:
        return self.decision_function([Image.new("RGB", (8, 8), grey) for grey in ("black", "white")]).shape

    @property
    def _prepare(self) -> Any:
        clip = clip_of(self.encoder)
        if clip.preprocess is None:
            raise NeedsPartError(f"{clip.name} has no preprocess: it cannot be given pictures")
        return clip.preprocess

    @property
    def _min_side(self) -> int | None:
        found: int | None = getattr(self.encoder, "min_side", None)
        return found

    def _normalised(self, pixels: Sequence[NDArray[np.uint8]]) -> Tensor:
        """``[N, 3, H, W]`` of N 8-bit model inputs."""
        clip = clip_of(self.encoder)
        return torch.from_numpy(self._prepare.normalize(np.stack(pixels))).to(clip.device, clip.logit_scale.dtype)

    def _open(self, source: Any) -> str:
        return content_key(open_image(source, min_side=self._min_side).image)

    def _tolerant(self, source: Any) -> str | None:
        try:
            return self._open(source)
        except MediaError:
            return None

    def _view(self, source: Any, name: str, size: int, interpolation: str) -> NDArray[np.uint8]:
        """The random view of a picture that a name stands for."""
        image = open_image(source, min_side=self._min_side).image
        return draw_view(image, self.view, Draws(self.seed, name), size, interpolation)
