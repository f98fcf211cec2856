"""Whatever an adapter is given as vectors: what is encoded already stays as it is, pictures are encoded once.

The random views of a picture (random-resized-crop of half to all of it, flip) are functions of (seed, id of the picture,
number of the view), so that neither order nor company of the rows changes them.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from binderclip.data.embeddings import Embeddings
from binderclip.data.hashing import Draws
from binderclip.data.media import open_image
from binderclip.data.pairs import Pairs
from binderclip.data.transforms import Augment
from binderclip.engine.torch_encoder import TorchEncoder
from binderclip.errors import InputError, MediaError

__all__ = ["VIEW", "EncoderLike", "Rows", "augmented_views", "encode_readable", "encoder_of", "rows_of"]

Floats = NDArray[np.floating[Any]]
#: What a random view of a picture is, as CLIP's few-shot methods have it.
VIEW = Augment(scale=(0.5, 1.0), flip=0.5)
BATCH = 16


class EncoderLike(Protocol):
    """An :class:`~binderclip.Encoder`, or anything with its two methods; ``logit_scale`` is 100 where it has none."""

    def encode_image(self, images: Sequence[Any]) -> Any:
        """Unit rows ``[N, D]`` of paths, file contents or Pillow images."""
        ...

    def encode_text(self, texts: Sequence[str]) -> Any:
        """Unit rows ``[N, D]``."""
        ...


@dataclass(frozen=True)
class Rows:
    """What was given, as numbers.

    Args:
        vectors: ``[N, D]``, or ``[N, V, D]`` for ``V`` views of each row; as given, not brought to length 1.
        ids: of the rows, where they have any.
        labels: of the rows, by name or number, where all have one.
    """

    vectors: Floats
    ids: tuple[str, ...] | None = None
    labels: Sequence[Any] | None = None


def encoder_of(model: Any) -> EncoderLike:
    """The model itself where it gives numpy rows, a wrapper around a torch ``CLIP``.

    Raises:
        InputError: it can encode nothing.
    """
    if hasattr(model, "towers") and hasattr(model, "scale"):
        return TorchEncoder(model)
    if not (hasattr(model, "encode_image") and hasattr(model, "encode_text")):
        raise InputError(f"{type(model).__name__} is no model: give an Encoder or a CLIP")
    found: EncoderLike = model
    return found


def rows_of(encoder: EncoderLike, X: Any, *, views: int = 1, seed: int = 0, view: Augment = VIEW) -> Rows:
    """Vectors, ids and labels of what was given.

    Args:
        encoder: the model.
        X: `Embeddings`, an array ``[N, D]`` or ``[N, V, D]``, `Pairs`, or a list of paths, file contents or Pillow images.
        views: random views of each picture where pictures are encoded; 1 for the picture as the model crops it.
        seed: of the views.
        view: what a random view is.

    Raises:
        InputError: vectors of another model, of another shape, or not finite; nothing there.
        MediaError: a picture of a list cannot be decoded; of `Pairs` such rows are left out and counted in a warning.
    """
    if isinstance(X, Embeddings):
        ours = str(getattr(encoder, "fingerprint", ""))
        if X.fingerprint and ours and X.fingerprint != ours:
            raise InputError("the vectors were made by another model than this one: encode the pictures again")
        return Rows(_checked(X.matrix), X.ids, None if X.labels is None else list(X.labels))
    if isinstance(X, Pairs):
        return _of_pairs(encoder, X, views, seed, view)
    if hasattr(X, "detach"):
        X = X.detach().cpu().numpy()
    if isinstance(X, list | tuple) and len(X) and isinstance(X[0], str | bytes | os.PathLike | Image.Image):
        ids = [_id_of(one) for one in X]
        return Rows(_checked(_encoded(encoder, X, ids, views, seed, view)))
    try:
        return Rows(_checked(np.asarray(X)))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError("give vectors [N, D], Embeddings, Pairs or a list of pictures") from None


def augmented_views(
    encoder: EncoderLike, images: Sequence[Any], ids: Sequence[str], n: int = 10, seed: int = 0, view: Augment = VIEW
) -> Floats:
    """Unit vectors ``[N, n, D]`` of random views of pictures: samples of the same shot, never further shots.

    Args:
        encoder: the model.
        images: N paths, file contents or Pillow images.
        ids: their names; what is drawn depends on them alone.
        n: views of each.
        seed: of the draws.
        view: what a random view is.

    Raises:
        MediaError: one cannot be decoded.
    """
    preprocess = getattr(encoder, "preprocess", None)
    direct = getattr(encoder, "encode_pixels", None)
    parts = []
    for start in range(0, len(images), BATCH):
        made: list[Image.Image] = []
        for source, key in zip(images[start : start + BATCH], ids[start : start + BATCH], strict=True):
            picture = open_image(source, min_side=getattr(encoder, "min_side", None))
            size = preprocess.size if preprocess is not None else min(picture.width, picture.height)
            how = preprocess.interpolation if preprocess is not None else "bicubic"
            for i in range(n):
                draws = Draws(seed, f"view/{key}/{i}")
                drawn = view.draw(draws, str(i), picture.width, picture.height, size=size, interpolation=how)
                made.append(drawn(picture.image))
        rows = direct(np.stack([np.asarray(one) for one in made])) if direct is not None else encoder.encode_image(made)
        parts.append(np.asarray(rows, np.float32).reshape(-1, n, np.shape(rows)[-1]))
    return np.concatenate(parts)


def _encoded(
    encoder: EncoderLike, images: Sequence[Any], ids: Sequence[str], views: int, seed: int, view: Augment
) -> Floats:
    if views > 1:
        return augmented_views(encoder, images, ids, views, seed, view)
    return np.asarray(encoder.encode_image(list(images)), np.float32)


def encode_readable(
    encoder: EncoderLike,
    images: Sequence[Any],
    ids: Sequence[str],
    *,
    views: int = 1,
    seed: int = 0,
    view: Augment = VIEW,
) -> tuple[Floats, list[int], list[tuple[str, str]]]:
    """Vectors ``[M, D]`` (or ``[M, views, D]``) of what can be read, its places, and (id, reason) of the rest.

    Args:
        encoder: the model.
        images: N paths, file contents or Pillow images.
        ids: their names.
        views: random views of each; 1 for the picture as the model crops it.
        seed: of the views.
        view: what a random view is.
    """
    parts: list[Floats] = []
    kept: list[int] = []
    lost: list[tuple[str, str]] = []
    for start in range(0, len(images), BATCH):
        part = list(range(start, min(start + BATCH, len(images))))
        try:
            parts.append(_encoded(encoder, [images[i] for i in part], [ids[i] for i in part], views, seed, view))
            kept += part
        except MediaError:
            for i in part:  # one of them is bad: find out which
                try:
                    parts.append(_encoded(encoder, [images[i]], [ids[i]], views, seed, view))
                    kept.append(i)
                except MediaError as error:
                    lost.append((ids[i], str(error)))
    return np.concatenate(parts) if parts else np.empty((0, 1), np.float32), kept, lost


def _of_pairs(encoder: EncoderLike, pairs: Pairs, views: int, seed: int, view: Augment) -> Rows:
    rows = [row for row in pairs if row.image is not None]
    images, ids = [row.image for row in rows], [row.id for row in rows]
    vectors, kept, lost = encode_readable(encoder, images, ids, views=views, seed=seed, view=view)
    if lost:
        named = ": ".join(dict.fromkeys(lost[0]))
        warnings.warn(f"{len(lost)} of {len(rows)} pictures were left out, the first: {named}", stacklevel=2)
    if not kept:
        raise InputError(f"no picture of {pairs.name} can be read: name a source of pictures")
    rows = [rows[i] for i in kept]
    labels = [None if row.label is None else _named(pairs, row.label) for row in rows]
    return Rows(_checked(vectors), tuple(row.id for row in rows), None if None in labels else labels)


def _named(pairs: Pairs, label: Any) -> Any:
    return pairs.label_name(label) if pairs.classes else label


def _checked(vectors: Any) -> Floats:
    if vectors.dtype.kind not in "fiu" or vectors.ndim not in (2, 3) or not vectors.size:
        raise InputError(f"vectors have shape {vectors.shape} of {vectors.dtype}: give [N, D] or, of views, [N, V, D]")
    out: Floats = vectors if vectors.dtype.kind == "f" else vectors.astype(np.float32)
    length = np.abs(out).max(axis=-1)
    bad = np.argwhere(~(np.isfinite(length) & (length > 0)))
    if len(bad):
        raise InputError(f"{len(bad)} vectors are zero or not finite, the first is row {bad[0][0]}: leave them out")
    return out


def _id_of(source: Any) -> str:
    """A path's name, or the hash of what is in memory."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source) if isinstance(os.fspath(source), str) else os.fsdecode(source)
    data = source if isinstance(source, bytes) else source.tobytes()
    return hashlib.blake2b(data, digest_size=8).hexdigest()
