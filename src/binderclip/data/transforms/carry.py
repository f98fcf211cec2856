"""Boxes and maps through an affine change of coordinates.

Coordinates are continuous: pixel i covers i to i + 1, its centre is i + 0.5. A matrix [3, 3] takes (x, y, 1) of where a
thing is to where it will be.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from binderclip.errors import InputError

__all__ = ["Floats", "flipping", "linear_about", "moved_boxes", "moved_map", "scaling"]

Floats = NDArray[np.float64]


def scaling(left: float, top: float, x: float, y: float) -> Floats:
    """Move (left, top) to the origin, then stretch by x and y."""
    return np.array([[x, 0.0, -x * left], [0.0, y, -y * top], [0.0, 0.0, 1.0]])


def flipping(width: float) -> Floats:
    """Left becomes right."""
    return np.array([[-1.0, 0.0, width], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def linear_about(linear: ArrayLike, x: float, y: float) -> Floats:
    """A linear map [2, 2] that leaves (x, y) where it is."""
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = np.array([x, y]) - matrix[:2, :2] @ [x, y]
    return matrix


def moved_boxes(boxes: ArrayLike, matrix: Floats, width: float, height: float) -> Floats:
    """Boxes [K, 4] as (x0, y0, x1, y1): the hull of the moved corners, cut to (0, 0, width, height).

    A box that has left the frame comes back with no area.
    """
    corners = np.asarray(boxes, float).reshape(-1, 4)[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    moved = corners @ matrix[:2, :2].T + matrix[:2, 2]  # [K, 4, 2]
    hull = np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1)
    cut: Floats = np.clip(hull, 0.0, [width, height, width, height])
    return cut


def moved_map(
    values: ArrayLike,
    matrix: Floats,
    extent: tuple[float, float],
    new_extent: tuple[float, float],
    grid: tuple[int, int],
    *,
    nearest: bool = False,
    outside: float = 0.0,
) -> NDArray[np.floating]:
    """A map [..., h, w] over the old frame as a map [..., h', w'] over the new one.

    Args:
        values: of any grid that covers the whole old frame, as patch scores or a mask.
        matrix: from coordinates of the old frame to those of the new one.
        extent: (width, height) of the old frame.
        new_extent: (width, height) of the new frame.
        grid: (h', w').
        nearest: take the cell under each new centre; otherwise bilinear between cell centres, the rim repeated.
        outside: what stands where the old frame has nothing.

    Raises:
        InputError: `values` has fewer than two axes.
    """
    old = np.asarray(values)
    if old.ndim < 2:
        raise InputError(f"a map has at least 2 axes, not {old.ndim}: give [h, w] or [..., h, w]")
    rows, columns = grid
    x = (np.arange(columns) + 0.5) * (new_extent[0] / columns)
    y = (np.arange(rows) + 0.5) * (new_extent[1] / rows)
    points = np.stack([*np.broadcast_arrays(x[None, :], y[:, None]), np.ones(grid)])  # [3, h', w']
    u, v, _ = np.tensordot(np.linalg.inv(matrix), points, 1)  # where each new centre was
    inside = (u >= 0) & (u < extent[0]) & (v >= 0) & (v < extent[1])
    height, width = old.shape[-2:]
    u, v = u * (width / extent[0]), v * (height / extent[1])  # in cells
    if nearest:
        # A centre on the line between two cells must not be decided by rounding errors.
        i, j = _within(np.floor(v + 1e-6), height), _within(np.floor(u + 1e-6), width)
        return np.where(inside, old[..., i, j], np.asarray(outside, old.dtype))
    u, v = u - 0.5, v - 0.5
    i, j = np.floor(v), np.floor(u)
    out = np.zeros((*old.shape[:-2], *grid))
    corners: Sequence[tuple[int, int]] = ((0, 0), (0, 1), (1, 0), (1, 1))
    for a, b in corners:
        weight = np.abs(1 - a - (v - i)) * np.abs(1 - b - (u - j))
        out += weight * old[..., _within(i + a, height), _within(j + b, width)]
    return np.where(inside, out, outside)


def _within(index: Floats, count: int) -> NDArray[np.intp]:
    return np.clip(index, 0, count - 1).astype(np.intp)
