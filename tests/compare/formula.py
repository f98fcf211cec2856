"""Weights and inputs by a closed formula of name and index: the same numbers in every environment, nothing stored.

Element k of tensor ``name`` is an integer hash of (crc32(name), k), spread over [-1, 1] and scaled to what the tensor is
for. Only integer arithmetic and one division are used, so that the numbers are equal to the bit everywhere.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
SAMPLES = 24  # gradient entries kept for each parameter


def noise(name: str, shape: Sequence[int]) -> npt.NDArray[np.float32]:
    """Numbers in [-1, 1]."""
    k = np.arange(int(np.prod(shape, dtype=np.int64)), dtype=np.uint64)
    x = (k + np.uint64(zlib.crc32(name.encode()))) * np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(29)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(32)
    unit = (x >> np.uint64(40)).astype(np.float64) / float(1 << 24)  # [0, 1), 24 bits: exact in float32
    return (2 * unit - 1).astype(np.float32).reshape(tuple(shape))


def weight(name: str, shape: Sequence[int]) -> Array:
    """A weight of a believable size for its place."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(tuple(shape), np.int64)
    if "logit_scale" in name:
        return np.full(tuple(shape), 2.5, np.float32)
    if "logit_bias" in name:
        return np.full(tuple(shape), -3.0, np.float32)
    value = noise(name, shape)
    if name.endswith("running_var"):
        return (1 + 0.3 * value).astype(np.float32)
    if len(shape) == 1:
        gain = name.endswith(("weight", "gamma"))
        return ((1.0 if gain else 0.0) + 0.2 * value).astype(np.float32)
    fan_in = int(np.prod(shape[1:]))
    if "embedding" in name or "pos_embed" in name:
        fan_in = 4
    return (value * np.float32((3 / fan_in) ** 0.5)).astype(np.float32)


def fill(shapes: Mapping[str, Sequence[int]]) -> dict[str, Array]:
    """A whole state dict."""
    return {name: weight(name, shape) for name, shape in shapes.items()}


def sample(values: Array, most: int = SAMPLES) -> npt.NDArray[np.float32]:
    """A few entries, evenly spread, and the norm of all last."""
    flat = np.asarray(values, np.float32).reshape(-1)
    at = np.linspace(0, flat.size - 1, min(flat.size, most)).astype(np.int64)
    return np.concatenate([flat[at], [np.sqrt(np.square(flat, dtype=np.float64).sum())]]).astype(np.float32)


def pack(value: Any) -> npt.NDArray[np.uint8]:
    """JSON as an array, for npz files."""
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def unpack(array: Array) -> Any:
    """The opposite of ``pack``."""
    return json.loads(array.tobytes().decode())


TEXT = np.array([[98, 5, 9, 40, 99, 0, 0, 0, 0, 0], [98, 7, 8, 61, 12, 33, 21, 3, 2, 99]], np.int64)
"""Ids of a vocabulary of 100: start 98, end 99, padding 0."""

BERT_TEXT = np.array([[0, 5, 9, 40, 2, 1, 1, 1, 1, 1], [0, 7, 8, 61, 12, 33, 21, 3, 4, 2]], np.int64)
"""Ids as XLM-R frames them: start 0, end 2, padding 1."""
