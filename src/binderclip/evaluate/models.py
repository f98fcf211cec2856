"""Any model as `Vectors`: a torch `CLIP`, an `Encoder`, or anything with `encode_image` and `encode_text`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from binderclip.engine.torch_encoder import TorchEncoder
from binderclip.evaluate.vectors import EncoderLike, Vectors

__all__ = ["Model", "TorchEncoder", "square_vectors", "vectors_of"]

Floats = NDArray[np.float32]
Model = Any  #: what `vectors_of` takes


def vectors_of(model: Model) -> Vectors:
    """The vectors of a model, made when asked for; `Vectors` are given back as they are."""
    if isinstance(model, Vectors):
        return model
    encoder: EncoderLike = TorchEncoder(model) if hasattr(model, "towers") and hasattr(model, "scale") else model
    return Vectors(encoder)


def square_vectors(vectors: Vectors, pictures: Sequence[Image.Image], batch: int = 64) -> Floats:
    """Unit rows ``[N, D]`` of pictures squeezed to a square, bicubic, so that a centre crop cuts nothing off; not kept."""
    preprocess = getattr(vectors.encoder, "preprocess", None)
    rows = []
    for start in range(0, len(pictures), batch):
        part = pictures[start : start + batch]
        sides = [preprocess.size if preprocess is not None else max(one.size) for one in part]
        squares = [one.resize((n, n), Image.Resampling.BICUBIC) for one, n in zip(part, sides, strict=True)]
        rows.append(vectors.of_pictures(squares))
    return np.concatenate(rows)
