"""What adapters share, as functions of arrays: class vectors, zero-shot logits, the search of hyperparameters."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binderclip.adapt.encoding import EncoderLike
from binderclip.data.templates import class_vectors

__all__ = ["PHOTO", "class_weights", "grid", "grid_values", "softmax", "unit", "zero_shot_logits"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: The template that papers of this field begin with.
PHOTO = ("a photo of a {}.",)


def class_weights(encoder: EncoderLike, classes: Sequence[str], templates: str | Sequence[str] = PHOTO) -> Floats:
    """``W`` [C, D]: the mean of the unit vectors of a class's sentences, made unit again; float64.

    Raises:
        InputError: no names, an empty one, or one given twice.
    """
    names = classes if isinstance(classes, str) else [str(name).replace("_", " ") for name in classes]
    return class_vectors(encoder, names, templates).astype(np.float64)


def unit(rows: Any) -> Floats:
    """Rows of length 1; those that are so already (to 1e-4) stay as they are to the bit."""
    out: Floats = np.array(rows, np.float64)
    lengths = np.linalg.norm(out, axis=-1, keepdims=True)
    return np.where(np.abs(lengths - 1) > 1e-4, out / lengths, out)


def zero_shot_logits(f: Floats, W: Floats, s: float) -> Floats:
    """``z = s f W^T`` [N, C]."""
    out: Floats = s * (f @ W.T)
    return out


def softmax(z: Floats) -> Floats:
    """Over the last axis."""
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    out: Floats = e / e.sum(axis=-1, keepdims=True)
    return out


def grid(score: Callable[..., float], **axes: Sequence[float]) -> dict[str, float]:
    """The values with the best score, the first of equals; the first axis is the outer loop.

    Args:
        score: of keyword arguments named as the axes.
        axes: values of each hyperparameter.

    Example:
        >>> grid(lambda a, b: -abs(a - b), a=[3, 1], b=[1, 3])
        {'a': 3, 'b': 3}
    """
    best, found = -np.inf, {name: values[0] for name, values in axes.items()}
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        value = score(**point)
        if value > best:
            best, found = value, point
    return found


def grid_values(scale: float, n: int) -> list[float]:
    """Tip-Adapter's values of a hyperparameter: ``0.1 + i (scale - 0.1) / n`` for i = 0 ... n - 1."""
    return [0.1 + i * (scale - 0.1) / n for i in range(n)]
