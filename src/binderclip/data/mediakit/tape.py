"""What old tape does to a picture, with the clean original kept.

The artefacts that TAPE (Agnolucci et al. 2024) and the analog Swin-UNet are trained to remove. How strong they are varies
slowly over the clip, so that some frames stay nearly clean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from binderclip.data.hashing import Draws
from binderclip.data.mediakit.clip import Floats, Frames
from binderclip.errors import InputError

__all__ = ["ARTEFACTS", "Tape", "degrade_tape"]

#: Bands of rows out of place; rims that wave; colour lost and smeared along rows; white streaks and grain.
ARTEFACTS = ("mistracking", "waving", "chroma", "noise")
# ITU-R 601: luma and the two colour differences of RGB.
_YUV = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
_RGB = np.linalg.inv(_YUV)


@dataclass(frozen=True)
class Tape:
    """A clip as played from tape.

    Args:
        frames: degraded [T, H, W, 3].
        clean: as they were [T, H, W, 3].
        severity: of each frame [T], 0 (untouched) to 1.
        shifts: by how many pixels mistracking moved each row to the right [T, H]; rows wrap round.
    """

    frames: Frames
    clean: Frames
    severity: Floats
    shifts: NDArray[np.int64]


def degrade_tape(
    frames: Frames,
    *,
    severity: float = 1.0,
    artefacts: Sequence[str] = ARTEFACTS,
    seed: int = 0,
    key: str = "",
) -> Tape:
    """Play a clip from bad tape.

    The severity of frame t is severity sin^2(pi (n t / T + phase)), n drawn from 1 to 3: a frame of severity 0 is untouched.

    Args:
        frames: [T, H, W, 3], 8-bit RGB.
        severity: of the worst frames, 0 to 1.
        artefacts: some of `ARTEFACTS`.
        seed: of the draws.
        key: which clip of that seed.

    Raises:
        InputError: another shape or type, an unknown artefact, or a severity out of range.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise InputError(f"the clip is {frames.dtype} {frames.shape}: give 8-bit frames [T, H, W, 3]")
    unknown = set(artefacts) - set(ARTEFACTS)
    if unknown or not 0 <= severity <= 1:
        raise InputError(
            f"severity {severity}, artefacts {sorted(unknown)}: use 0..1 and some of {', '.join(ARTEFACTS)}"
        )
    draws = Draws(seed, f"mediakit/tape/{key}")
    total, height = len(frames), frames.shape[1]
    cycles, phase = draws.integer("cycles", 1, 3), draws.unit("phase")
    levels = severity * np.sin(math.pi * (cycles * np.arange(total) / total + phase)) ** 2
    out = frames.copy()
    shifts = np.zeros((total, height), np.int64)
    for t, level in enumerate(levels):
        if level == 0:
            continue
        at = draws.at(str(t))
        if "mistracking" in artefacts:
            shifts[t] = _mistracking(at, height, frames.shape[2], level)
        offsets = np.broadcast_to(shifts[t][:, None], frames.shape[1:3])
        if "waving" in artefacts:
            offsets = offsets + _waving(draws, at, t, frames.shape[1], frames.shape[2], level)
        columns = (np.arange(frames.shape[2]) - offsets) % frames.shape[2]  # where each pixel comes from
        picture = np.take_along_axis(frames[t], columns[..., None], axis=1).astype(float)
        if "chroma" in artefacts:
            picture = _chroma(picture, at, level)
        if "noise" in artefacts:
            picture = _noise(picture, at, level)
        out[t] = np.clip(picture + 0.5, 0, 255).astype(np.uint8)
    return Tape(out, frames.copy(), levels, shifts)


def _mistracking(draws: Draws, height: int, width: int, level: float) -> NDArray[np.int64]:
    """Two bands of up to a fifth of the height go aside together; of the second each row goes its own way."""
    shifts = np.zeros(height, np.int64)
    for band in range(2):
        rows = max(round(draws.between(f"rows {band}", 0.05, 0.2) * height * level), 1)
        top = draws.integer(f"top {band}", 0, height - rows)
        reach = 0.25 * width * level
        if band:
            own = (draws.array("scrambled", rows) * 2 - 1) * reach
        else:
            own = np.full(rows, draws.between("shift", -reach, reach))
        shifts[top : top + rows] = np.round(own)
    return shifts


def _waving(clip: Draws, frame: Draws, t: int, height: int, width: int, level: float) -> NDArray[np.int64]:
    """Rows near the left and right rim swing: a sine that runs with time, and a random walk. [H, W] pixels."""
    y = np.arange(height)
    waves = clip.between("waves", 2, 5)
    swing = np.sin(2 * math.pi * (waves * y / height + 0.13 * t))
    walk = np.cumsum(frame.array("walk", height) * 2 - 1) / math.sqrt(height)
    near = np.minimum(np.arange(width) + 0.5, width - np.arange(width) - 0.5) / (0.25 * width)
    weight = np.clip(1 - near, 0, 1)  # 1 at the rim, 0 from a quarter of the width on
    rows = 0.06 * width * level * (swing + walk)
    moved: NDArray[np.int64] = np.round(rows[:, None] * weight).astype(np.int64)
    return moved


def _chroma(picture: Floats, draws: Draws, level: float) -> Floats:
    """Colour differences fall to 0.3 of themselves at the worst, are smeared to the right, and are lost in some rows."""
    yuv = picture @ _YUV.T
    colour = yuv[..., 1:] * (1 - 0.7 * level)
    reach = max(round(0.08 * picture.shape[1] * level), 1)
    padded = np.concatenate([np.repeat(colour[:, :1], reach - 1, axis=1), colour], axis=1)
    smeared = np.stack([padded[:, i : i + picture.shape[1]] for i in range(reach)]).mean(axis=0)
    lost = draws.array("lost", picture.shape[0]) < 0.15 * level
    yuv[..., 1:] = np.where(lost[:, None, None], 0.0, smeared)
    rgb: Floats = yuv @ _RGB.T
    return rgb


def _noise(picture: Floats, draws: Draws, level: float) -> Floats:
    """Grain of 12 levels and white streaks of up to a third of a row, both times the severity."""
    height, width = picture.shape[:2]
    u, v = draws.array("u", height, width), draws.array("v", height, width)
    grain = np.sqrt(-2 * np.log(1 - u)) * np.cos(2 * math.pi * v)  # Box and Muller
    noisy: Floats = picture + 12 * level * grain[..., None]
    for i in range(round(0.1 * height * level)):
        row, length = draws.integer(f"row {i}", 0, height - 1), draws.integer(f"length {i}", 2, max(width // 3, 2))
        left = draws.integer(f"left {i}", 0, max(width - length, 0))
        noisy[row, left : left + length] = 255
    return noisy
