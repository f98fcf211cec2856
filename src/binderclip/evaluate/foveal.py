"""Bumps over regions of a grid of patches, to be added to attention logits (FALIP, arXiv 2407.05578)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray

from binderclip.errors import InputError

__all__ = ["box_maps", "bump", "foveal_bias", "mask_maps"]

Floats = NDArray[np.float64]
Rect = tuple[int, int, int, int]  # first row, first column, rows, columns


def bump(rows: int, columns: int, strength: float = 0.2, sigma: float = 100.0) -> Floats:
    """The bump on a rectangle of patches ``[r, c]``: ``v`` in its middle, about 0 in its corners, ``v`` everywhere if flat.

    ``G = exp(-dist^2 / 2 sigma^2)``, then ``v (G - min + 1e-6) / (max - min + 1e-6)``, in float64.

    Args:
        rows: r.
        columns: c.
        strength: v.
        sigma: in patches; where it is much wider than the rectangle it hardly matters.
    """
    y, x = np.arange(rows) - (rows - 1) / 2, np.arange(columns) - (columns - 1) / 2
    G = np.exp(-0.5 * (y[:, None] ** 2 + x[None] ** 2) / sigma**2)
    out: Floats = strength * (G - G.min() + 1e-6) / (G.max() - G.min() + 1e-6)
    return out


def foveal_bias(
    boxes: ArrayLike, grid: tuple[int, int], strength: float = 0.2, sigma: float = 100.0
) -> NDArray[np.float32]:
    """``[K, 1 + N, 1 + N]`` for towers with one class token: row 0 over each box's patches, everything else 0.

    Args:
        boxes: ``[K, 4]`` (x0, y0, x1, y1) in patches, so that (0, 0, w, h) is the picture.
        grid: (h, w), N = h w.
        strength: see `bump`.
        sigma: see `bump`.

    Raises:
        InputError: a box without a patch in the grid.
    """
    maps = box_maps(boxes, grid, strength, sigma)
    n = grid[0] * grid[1]
    out = np.zeros((len(maps), 1 + n, 1 + n), np.float32)
    out[:, 0, 1:] = maps.reshape(len(maps), n)
    return out


def box_maps(boxes: ArrayLike, grid: tuple[int, int], strength: float, sigma: float) -> Floats:
    """Bumps ``[K, h, w]`` over boxes in patches, 0 elsewhere; see `foveal_bias`."""
    rows = np.asarray(boxes, np.float64)
    if rows.ndim != 2 or rows.shape[1] != 4 or not len(rows):
        raise InputError(f"boxes are [K, 4] of (x0, y0, x1, y1), not {list(rows.shape)}: give at least one")
    out = np.zeros((len(rows), *grid))
    for k, box in enumerate(rows):
        top, left, r, c = _rectangle(box, grid)
        out[k, top : top + r, left : left + c] = bump(r, c, strength, sigma)
    return out


def _rectangle(box: Floats, grid: tuple[int, int]) -> Rect:
    x0, y0, x1, y1 = box
    inside = x0 < x1 and y0 < y1 and x1 > 0 and y1 > 0 and x0 < grid[1] and y0 < grid[0]
    if not np.isfinite(box).all() or not inside:
        raise InputError(
            f"the box {box.round(2).tolist()} has no patch in a grid of {grid[1]} x {grid[0]}: leave it out"
        )
    first = [max(math.ceil(v), 1) - 1 for v in (y0, x0)]
    last = [min(max(math.ceil(v), 1) - 1, side - 1) for v, side in ((y1, grid[0]), (x1, grid[1]))]
    top, left = min(first[0], last[0]), min(first[1], last[1])
    return top, left, last[0] - top + 1, last[1] - left + 1


def mask_maps(masks: NDArray[Any], grid: tuple[int, int], strength: float, sigma: float, coverage: bool) -> Floats:
    """Bumps ``[K, h, w]`` of the rectangles around the patches with any foreground of masks ``[K, H, W]``, on those alone.

    Raises:
        InputError: an empty mask.
    """
    given = torch.from_numpy(np.asarray(masks) > 0).float()[:, None]
    touched = F.adaptive_max_pool2d(given, grid)[:, 0].numpy() > 0  # [K, h, w]
    if not touched.any(axis=(1, 2)).all():
        raise InputError("a mask is empty: leave it out")
    boxes = []
    for one in touched:
        rows, columns = np.flatnonzero(one.any(axis=1)), np.flatnonzero(one.any(axis=0))
        # in the middle of the first patch, at the end of the last
        boxes.append((columns[0] + 0.5, rows[0] + 0.5, columns[-1] + 1.0, rows[-1] + 1.0))
    maps = box_maps(boxes, grid, strength, sigma) * touched
    return maps * F.adaptive_avg_pool2d(given, grid)[:, 0].numpy() if coverage else maps
