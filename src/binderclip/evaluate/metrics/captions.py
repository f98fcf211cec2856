"""CLIPScore: does a caption fit its picture, without a reference (Hessel et al. 2021, arXiv 2104.08718)?

With caption ``c``, picture ``v`` and references ``r``, all unit rows::

    CLIPScore(c, v)       = w max(cos(c, v), 0)                                     w = 2.5
    RefCLIPScore(c, v, R) = harmonic mean of CLIPScore(c, v) and max(max_r cos(c, r), 0)

Values depend on the model: never compare them across backbones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["W", "clipscore", "ref_clipscore"]

Floats = NDArray[np.float64]
W = 2.5


def clipscore(captions: ArrayLike, images: ArrayLike, w: float = W) -> Floats:
    """CLIPScore of each row ``[N]`` of captions ``[N, D]`` and pictures ``[N, D]``."""
    c, v = np.asarray(captions, np.float64), np.asarray(images, np.float64)
    out: Floats = w * np.maximum((c * v).sum(axis=1), 0.0)
    return out


def ref_clipscore(captions: ArrayLike, images: ArrayLike, references: Sequence[ArrayLike], w: float = W) -> Floats:
    """RefCLIPScore of each row ``[N]``; ``references`` holds one ``[R_i, D]`` a row. 0 where both terms are 0."""
    first = clipscore(captions, images, w)
    c = np.asarray(captions, np.float64)
    second = np.array(
        [max(float((np.asarray(r, np.float64) @ row).max()), 0.0) for row, r in zip(c, references, strict=True)]
    )
    total = first + second
    out: Floats = np.divide(2.0 * first * second, total, out=np.zeros(len(c)), where=total > 0)
    return out
