"""Clips of a still picture: pans, zooms, and motion that repeats with a known period and count."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from binderclip.data.hashing import Draws
from binderclip.data.mediakit.clip import Clip, Floats, film
from binderclip.errors import InputError

__all__ = ["MOTIONS", "pan", "periodic", "zoom"]

#: Motions that can repeat.
MOTIONS = ("pan", "zoom", "bounce", "rotate")
_VIEW = 0.55  # side of the camera's square as a share of the picture's short side


def pan(image: Image.Image, *, frames: int = 32, size: int = 64, seed: int = 0, key: str = "") -> Clip:
    """The camera goes evenly along a drawn line, from one place of the picture to another, and never comes back.

    Args:
        image: a still picture.
        frames: of the clip.
        size: of a frame in pixels.
        seed: of the draws.
        key: which clip of that seed.

    Raises:
        InputError: fewer than 2 frames.
    """
    _check(frames, size)
    draws = Draws(seed, f"mediakit/pan/{key}")
    side = _VIEW * min(image.size)
    room = np.array([image.width - side, image.height - side]) / 2
    turn = draws.between("direction", 0, 2 * math.pi)
    way = np.array([math.cos(turn), math.sin(turn)])
    reach = (room / np.maximum(np.abs(way), 1e-9)).min() * draws.between("reach", 0.7, 1.0)
    path = _still(image, frames, side)
    path[:, :2] += np.linspace(-reach, reach, frames)[:, None] * way
    return Clip(film(image, path, size), "pan", path)


def zoom(image: Image.Image, *, frames: int = 32, size: int = 64, seed: int = 0, key: str = "") -> Clip:
    """The camera comes nearer or goes away, by a drawn factor of 1.5 to 2.5, each frame by the same factor.

    Args:
        image: a still picture.
        frames: of the clip.
        size: of a frame in pixels.
        seed: of the draws.
        key: which clip of that seed.

    Raises:
        InputError: fewer than 2 frames.
    """
    _check(frames, size)
    draws = Draws(seed, f"mediakit/zoom/{key}")
    far = 0.95 * min(image.size)
    sides = np.geomspace(far, far / draws.between("factor", 1.5, 2.5), frames)
    path = _still(image, frames, far)
    path[:, 2] = sides if draws.unit("in") < 0.5 else sides[::-1]
    return Clip(film(image, path, size), "zoom", path)


def periodic(
    image: Image.Image,
    *,
    period: int | None = None,
    count: int | None = None,
    kind: str | None = None,
    idle: tuple[int, int] | None = None,
    drift: float = 0.0,
    size: int = 64,
    seed: int = 0,
    key: str = "",
) -> Clip:
    """Motion that repeats `count` times, each time in `period` frames, between still frames; what is None is drawn.

    With phase phi = 2 pi (t mod period) / period the camera is at sin(phi) for "pan" and "zoom", at |sin(phi / 2)| above
    the middle for "bounce", and tilted by sin(phi) for "rotate", times a drawn reach. Without drift, frames that are a
    period apart are equal to the last bit.

    Args:
        image: a still picture.
        period: in frames, at least 3; drawn from 4 to 16.
        count: of repetitions, at least 1; drawn from 2 to 10.
        kind: one of `MOTIONS`.
        idle: still frames before and after; drawn so that the two are at most half of the clip.
        drift: how far the camera wanders over the clip, as a share of its square; 0.1 is visible.
        size: of a frame in pixels.
        seed: of the draws.
        key: which clip of that seed.

    Raises:
        InputError: a number out of range or an unknown kind.
    """
    draws = Draws(seed, f"mediakit/periodic/{key}")
    period = draws.integer("period", 4, 16) if period is None else period
    count = draws.integer("count", 2, 10) if count is None else count
    kind = draws.choice("kind", MOTIONS) if kind is None else kind
    if idle is None:
        idle = (draws.integer("before", 0, period * count // 2), draws.integer("after", 0, period * count // 2))
    if period < 3 or count < 1 or min(idle) < 0 or kind not in MOTIONS or not 0 <= drift <= 0.2:
        raise InputError(
            f"period {period}, count {count}, idle {idle}, kind {kind!r}, drift {drift}: a period has at least 3 frames, "
            f"drift lies in 0..0.2, and kind is one of {', '.join(MOTIONS)}"
        )
    total = sum(idle) + period * count
    _check(total, size)
    t = np.arange(total)
    moving = (t >= idle[0]) & (t < idle[0] + period * count)
    phase = np.where(moving, 2 * math.pi * ((t - idle[0]) % period) / period, 0.0)
    side = _VIEW * min(image.size)
    path = _still(image, total, side)
    _move(path, kind, phase, side, draws.between("reach", 0.15, 0.3))
    turn = draws.between("drift", 0, 2 * math.pi)
    path[:, 0] += drift * side * math.cos(turn) * (t / total - 0.5)
    path[:, 1] += drift * side * math.sin(turn) * (t / total - 0.5)
    return Clip(film(image, path, size), f"periodic {kind}", path, period, moving)


def _move(path: Floats, kind: str, phase: Floats, side: float, reach: float) -> None:
    """Put one motion into a path, in place."""
    if kind == "pan":
        path[:, 0] += reach * side * np.sin(phase)
    elif kind == "zoom":
        path[:, 2] *= 1 + reach * np.sin(phase)
    elif kind == "bounce":
        path[:, 1] -= reach * side * np.abs(np.sin(phase / 2))
    else:
        path[:, 3] = 2 * reach * np.sin(phase)


def _still(image: Image.Image, frames: int, side: float) -> Floats:
    """A path that stays in the middle [T, 4]."""
    return np.tile([image.width / 2, image.height / 2, side, 0.0], (frames, 1))


def _check(frames: int, size: int) -> None:
    if frames < 2 or size < 4:
        raise InputError(f"{frames} frames of {size} pixels: a clip has at least 2 of at least 4")
