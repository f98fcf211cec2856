"""Shots one after the other, with the cuts known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from binderclip.data.hashing import Draws
from binderclip.data.mediakit.clip import Clip
from binderclip.data.mediakit.moves import pan, zoom
from binderclip.data.scenes import SceneSpec, scene
from binderclip.errors import InputError

__all__ = ["montage", "still"]


def still(number: int, *, size: int = 128, seed: int = 0) -> Image.Image:
    """A scene to film: 3 to 6 objects on a painted ground, for kits without photos."""
    textures = ("striped", "checked", "dotted", "noisy")
    return scene(number, SceneSpec(size=size, seed=seed, objects=(3, 6), textures=textures)).image


def montage(
    images: Sequence[Image.Image],
    *,
    names: Sequence[str] | None = None,
    length: tuple[int, int] = (8, 24),
    size: int = 64,
    seed: int = 0,
    key: str = "",
) -> Clip:
    """One shot a picture, a pan or a zoom of drawn length each, cut hard.

    Args:
        images: one a shot, in their order.
        names: of the shots; their numbers by default.
        length: fewest and most frames of a shot.
        size: of a frame in pixels.
        seed: of the draws.
        key: which clip of that seed.

    Raises:
        InputError: no pictures, a name too few or too many, or shots under 2 frames.
    """
    labels = [str(i) for i in range(len(images))] if names is None else list(names)
    if not images or len(labels) != len(images) or not 2 <= length[0] <= length[1]:
        raise InputError(
            f"{len(images)} pictures, {len(labels)} names, shots of {length} frames: give one name a picture and shots "
            "of at least 2 frames"
        )
    draws = Draws(seed, f"mediakit/montage/{key}")
    shots = []
    for i, image in enumerate(images):
        move = draws.choice(f"move {i}", (pan, zoom))
        frames = draws.integer(f"length {i}", *length)
        shots.append(move(image, frames=frames, size=size, seed=seed, key=f"{key}/{i}"))
    ends = np.cumsum([len(shot) for shot in shots])
    return Clip(
        np.concatenate([shot.frames for shot in shots]),
        "montage",
        cuts=tuple(int(end) for end in ends[:-1]),
        names=tuple(labels),
    )
