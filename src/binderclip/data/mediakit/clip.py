"""A clip and its truth, and the camera that films a still picture."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from binderclip.errors import InputError

__all__ = ["Clip", "Floats", "Frames", "film"]

Frames = NDArray[np.uint8]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Clip:
    """Frames and what is true of them.

    Args:
        frames: [T, H, W, 3], 8-bit RGB.
        kind: how it was made.
        path: where the camera was [T, 4]: centre x and y, side of the square it saw, all in pixels of the still picture,
            and its tilt to the right in radians. Empty [0, 4] when there is no one picture.
        period: of the motion in frames; 0 when nothing repeats.
        periodic: which frames belong to the repetition [T].
        cuts: first frame of each shot but the first.
        names: of the shots.
    """

    frames: Frames
    kind: str
    path: Floats = field(default_factory=lambda: np.zeros((0, 4)))
    period: int = 0
    periodic: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    cuts: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def count(self) -> float:
        """How often the motion repeats: frames of the repetition by the period."""
        return float(self.periodic.sum()) / self.period if self.period else 0.0

    @property
    def shots(self) -> list[tuple[int, int]]:
        """(first frame, one behind the last) of each shot."""
        ends = [0, *self.cuts, len(self)]
        return list(itertools.pairwise(ends))


def film(image: Image.Image, path: Floats, size: int) -> Frames:
    """What a camera on a path sees: [T, size, size, 3].

    Point (u, v) of a frame, from its middle and in frame pixels, is the picture's (x, y) + side / size R(angle) (u, v);
    bilinear, from a picture that is first made smaller when the camera sees it from afar. Beyond its rim it is black.

    Args:
        image: RGB.
        path: (x, y, side, angle) of each frame [T, 4], in pixels of the picture.
        size: of the frames in pixels.

    Raises:
        InputError: a path that is not [T, 4], or a side that is not positive.
    """
    if path.ndim != 2 or path.shape[1] != 4 or not len(path) or path[:, 2].min() <= 0 or size < 1:
        raise InputError(f"the path is {path.shape}, the size {size}: give (x, y, side, angle) with side > 0 a frame")
    image = image if image.mode == "RGB" else image.convert("RGB")
    smaller = max(int(path[:, 2].min() / size), 1)
    if smaller > 1:
        image = image.reduce(smaller)
    out = np.empty((len(path), size, size, 3), np.uint8)
    for t, (x, y, side, angle) in enumerate(path / [smaller, smaller, smaller, 1]):
        a, b = side / size * math.cos(angle), side / size * math.sin(angle)
        middle = size / 2
        data = (a, -b, x - (a - b) * middle, b, a, y - (a + b) * middle)
        out[t] = np.asarray(
            image.transform((size, size), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR), np.uint8
        )
    return out
