"""Shapes as inequalities: whether a point (u, v) of [-1, 1]^2 is inside, v pointing down."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["SHAPES", "coverage"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def _star(u: Floats, v: Floats, points: int = 5, inner: float = 0.45) -> Bools:
    """Folded into one wedge between a tip (1, 0) and a notch: inside is one side of the edge between the two."""
    wedge = math.pi / points
    angle = np.abs((np.arctan2(u, -v) + wedge) % (2 * wedge) - wedge)
    radius = np.hypot(u, v)
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    notch_x, notch_y = inner * math.cos(wedge), inner * math.sin(wedge)
    inside: Bools = (notch_x - 1) * y - notch_y * (x - 1) >= 0
    return inside


def _heart(u: Floats, v: Floats) -> Bools:
    x, y = 1.2 * u, -1.15 * v + 0.1
    inside: Bools = (x * x + y * y - 1) ** 3 - x * x * y**3 <= 0
    return inside


#: Name -> is (u, v) inside.
SHAPES: dict[str, Callable[[Floats, Floats], Bools]] = {
    "circle": lambda u, v: u * u + v * v <= 1,
    "ring": lambda u, v: (u * u + v * v <= 1) & (u * u + v * v >= 0.3),
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) <= 0.85,
    "diamond": lambda u, v: np.abs(u) / 0.7 + np.abs(v) <= 1,
    "triangle": lambda u, v: (v <= 0.75) & (np.abs(u) <= 0.56 * (v + 1)),
    "star": _star,
    "hexagon": lambda u, v: (np.abs(v) <= 0.87) & (0.5 * np.abs(v) + 0.87 * np.abs(u) <= 0.87),
    "cross": lambda u, v: (np.minimum(np.abs(u), np.abs(v)) <= 0.3) & (np.maximum(np.abs(u), np.abs(v)) <= 1),
    "heart": _heart,
    "crescent": lambda u, v: (u * u + v * v <= 1) & ((u - 0.5) ** 2 + v * v >= 0.6),
}


def coverage(shape: str, x: float, y: float, r: float, angle: float, side: int, fine: int = 4) -> Floats:
    """Share of each pixel [side, side] that a shape covers, from `fine` x `fine` points a pixel.

    Args:
        shape: one of SHAPES.
        x: of the centre, as a share of the side.
        y: of the centre, as a share of the side.
        r: radius, as a share of the side.
        angle: to the right, in radians.
        side: of the picture in pixels.
        fine: points along a pixel.
    """
    out = np.zeros((side, side))
    left, right = max(int((x - 1.2 * r) * side), 0), min(math.ceil((x + 1.2 * r) * side), side)
    top, bottom = max(int((y - 1.2 * r) * side), 0), min(math.ceil((y + 1.2 * r) * side), side)
    if left >= right or top >= bottom:
        return out
    px = ((np.arange(left * fine, right * fine) + 0.5) / (fine * side) - x) / r  # [W']
    py = ((np.arange(top * fine, bottom * fine) + 0.5) / (fine * side) - y)[:, None] / r  # [H', 1]
    cos, sin = math.cos(angle), math.sin(angle)
    inside = SHAPES[shape](cos * px + sin * py, cos * py - sin * px)  # [H', W']
    blocks = inside.reshape(bottom - top, fine, right - left, fine)
    out[top:bottom, left:right] = blocks.mean(axis=(1, 3))
    return out
