"""Sliding windows over a large picture: logits are added up and divided by how often each pixel was seen.

Of a side of H pixels, ``n = max(ceil((H - crop) / stride), 0) + 1`` windows start at ``min(i stride, H - crop)``: one that
would overrun is shifted back inside. A side under ``crop`` is one window of its own length.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["padded", "places", "slide", "starts"]


def starts(side: int, crop: int, stride: int) -> list[int]:
    """Where the windows along one side begin."""
    count = max(math.ceil((side - crop) / stride), 0) + 1
    return [max(min(i * stride, side - crop), 0) for i in range(count)]


def places(height: int, width: int, crop: int, stride: int) -> list[tuple[int, int, int, int]]:
    """(top, left, bottom, right) of every window."""
    return [
        (y, x, min(y + crop, height), min(x + crop, width))
        for y in starts(height, crop, stride)
        for x in starts(width, crop, stride)
    ]


def padded(pixels: Tensor, multiple: int) -> tuple[Tensor, tuple[int, int]]:
    """Pixels ``[N, C, H, W]`` with zeros evenly around until both sides divide; and how many above and to the left."""
    height, width = pixels.shape[-2:]
    more = [-height % multiple, -width % multiple]
    top, left = more[0] // 2, more[1] // 2
    out = F.pad(pixels, (left, more[1] - left, top, more[0] - top)) if any(more) else pixels
    return out, (top, left)


def slide(
    pixels: Tensor, scores: Callable[[Tensor], Tensor], *, crop: int, stride: int, multiple: int, batch: int = 16
) -> Tensor:
    """Scores ``[T, H, W]`` of a picture from those of its windows.

    Args:
        pixels: normalised ``[1, 3, H, W]``.
        scores: of windows ``[N, 3, h, w]`` to ``[N, T, h', w']`` at any resolution; spread bilinearly to the window.
        crop: side of a window.
        stride: between windows.
        multiple: that a window's sides must divide by (the patch size).
        batch: windows at a time.
    """
    height, width = pixels.shape[-2:]
    boxes = places(height, width, crop, stride)
    total: Tensor | None = None
    count = pixels.new_zeros(height, width)
    for start in range(0, len(boxes), batch):
        part = boxes[start : start + batch]
        windows, (top, left) = padded(torch.cat([pixels[..., y:b, x:r] for y, x, b, r in part]), multiple)
        found = F.interpolate(scores(windows).float(), size=windows.shape[-2:], mode="bilinear", align_corners=False)
        if total is None:
            total = found.new_zeros(found.shape[1], height, width)
        for one, (y, x, b, r) in zip(found, part, strict=True):
            total[:, y:b, x:r] += one[:, top : top + b - y, left : left + r - x]
            count[y:b, x:r] += 1
    assert total is not None
    assert int(count.min()) >= 1
    return total / count
